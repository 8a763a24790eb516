import { Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { started } from '../record.mjs';

const connection = new Redis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
const worker = new Worker('bench', async (job) => started(job.data.seq), {
  connection,
  concurrency: 100,
});
worker.on('error', console.error);
process.on('SIGTERM', () => process.exit(0));
