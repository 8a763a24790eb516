# `prepare` | `backlog COUNT` | `paced COUNT FIRST GAP_MS`
require_relative 'job'

BULK = 1000
PAD = 'x' * 80 # with its number, about 100 bytes of payload

what, *numbers = ARGV
count, first, gap_ms = numbers.map(&:to_i)
case what
when 'prepare'
  Sidekiq.redis(&:ping)
when 'backlog'
  began = now
  (0...count).each_slice(BULK) do |seqs|
    Sidekiq::Client.push_bulk('class' => Noop, 'args' => seqs.map { |seq| [seq, PAD] })
  end
  puts "seconds #{now - began}"
when 'paced'
  File.open("#{ENV.fetch('RECORDS')}/sent", 'wb') do |sent|
    (first...first + count).each do |seq|
      sent.write(record(seq))
      Noop.perform_async(seq, PAD)
      sleep gap_ms / 1000.0
    end
  end
end
