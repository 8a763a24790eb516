// What every Node peer writes down: 16 bytes a job, its number and the second, as two doubles.
import { openSync, writeSync } from 'node:fs';
import { setTimeout as rest } from 'node:timers/promises';

const BULK = 1000;
const PAD = 'x'.repeat(80); // with its number, about 100 bytes of payload
const now = () => (performance.timeOrigin + performance.now()) / 1000;
const record = Buffer.alloc(16);

function write(file, seq) {
  record.writeDoubleLE(seq, 0);
  record.writeDoubleLE(now(), 8);
  writeSync(file, record);
}

let file;

// Called by a handler: all that it does.
export function started(seq) {
  file ??= openSync(`${process.env.RECORDS}/started-${process.pid}`, 'a');
  write(file, seq);
}

export const payload = (seq) => ({ seq, pad: PAD });

// `prepare` | `backlog COUNT` | `paced COUNT FIRST GAP_MS`
export async function enqueue(putOne, putMany) {
  const [what, ...numbers] = process.argv.slice(2);
  const [count, first, gap] = numbers.map(Number);
  if (what === 'backlog') {
    const began = now();
    for (let from = 0; from < count; from += BULK) {
      const length = Math.min(BULK, count - from);
      await putMany(Array.from({ length }, (_, nth) => payload(from + nth)));
    }
    console.log('seconds', now() - began);
  }
  if (what === 'paced') {
    const sent = openSync(`${process.env.RECORDS}/sent`, 'w');
    for (let seq = first; seq < first + count; seq++) {
      write(sent, seq);
      await putOne(payload(seq));
      await rest(gap);
    }
  }
}
