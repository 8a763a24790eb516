import { makeWorkerUtils } from 'graphile-worker';
import { enqueue } from '../record.mjs';

const utils = await makeWorkerUtils({ connectionString: process.env.DATABASE_URL });
await utils.migrate();
await enqueue(
  (payload) => utils.addJob('noop', payload),
  (payloads) => utils.addJobs(payloads.map((payload) => ({ identifier: 'noop', payload }))),
);
await utils.release();
