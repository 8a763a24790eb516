// A local queue and batched completion: ten times as fast as without, at the price of more jobs that
// stay locked when it is killed.
import { Logger, run } from 'graphile-worker';
import { started } from '../record.mjs';

const runner = await run({
  preset: {
    worker: {
      connectionString: process.env.DATABASE_URL,
      concurrentJobs: 50,
      maxPoolSize: 10,
      pollInterval: 1000,
      localQueue: { size: 2000, refetchDelay: { durationMs: 10 } },
      completeJobBatchDelay: 0,
      failJobBatchDelay: 0,
    },
  },
  logger: new Logger(() => () => {}),
  taskList: { noop: async ({ seq }) => started(seq) },
});
await runner.promise;
