import { PgBoss } from 'pg-boss';
import { enqueue } from '../record.mjs';

const connectionString = process.env.DATABASE_URL;
const boss = new PgBoss({ connectionString, max: 4, supervise: false, schedule: false });
boss.on('error', console.error);
await boss.start();
await boss.createQueue('bench');
await enqueue(
  (data) => boss.send('bench', data),
  (payloads) => boss.insert('bench', payloads.map((data) => ({ data }))),
);
await boss.stop({ graceful: false });
process.exit(0);
