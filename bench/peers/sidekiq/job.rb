require 'sidekiq'

# Debian's Sidekiq calls its redis as older ones had it, and would print a line for each job.
Redis.silence_deprecations = true if Redis.respond_to?(:silence_deprecations=)

redis = { url: ENV.fetch('REDIS_URL') }
Sidekiq.configure_client { |config| config.redis = redis }
Sidekiq.configure_server do |config|
  config.redis = redis
  config.logger.level = Logger::WARN
end

def now = Process.clock_gettime(Process::CLOCK_REALTIME)

# What every peer writes down: 16 bytes a job, its number and the second, as two doubles.
def record(seq) = [seq.to_f, now].pack('EE')

class Noop
  include Sidekiq::Worker
  sidekiq_options queue: 'bench'

  # Opened once, before there are threads that would open it twice.
  FILE = File.open("#{ENV.fetch('RECORDS')}/started-#{Process.pid}", 'ab')
  FILE.sync = true

  def perform(seq, _pad) = FILE.write(record(seq))
end
