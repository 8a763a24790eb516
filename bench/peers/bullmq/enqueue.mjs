import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { enqueue } from '../record.mjs';

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const queue = new Queue('bench', { connection });
await queue.waitUntilReady();
// Nobody asks for finished jobs here, and they would stay in memory.
const opts = { removeOnComplete: true };
await enqueue(
  (data) => queue.add('noop', data, opts),
  (payloads) => queue.addBulk(payloads.map((data) => ({ name: 'noop', data, opts }))),
);
process.exit(0);
