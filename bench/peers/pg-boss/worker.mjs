// Two loops that fetch up to 5,000 jobs each half second, its shortest: with smaller batches the
// pause bounds it.
import { PgBoss } from 'pg-boss';
import { started } from '../record.mjs';

const boss = new PgBoss({ connectionString: process.env.DATABASE_URL, max: 10 });
boss.on('error', console.error);
await boss.start();
for (let loop = 0; loop < 2; loop++) {
  await boss.work('bench', { batchSize: 5000, pollingIntervalSeconds: 0.5 }, async (jobs) => {
    for (const job of jobs) started(job.data.seq);
  });
}
process.on('SIGTERM', () => process.exit(0));
