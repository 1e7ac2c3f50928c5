// The load of the benchmark: streams at real-time pace, and what became of them, as JSON.
//
//   load ws|grpc ADDRESS STREAMS [--seconds S] [--warm-up S] [--pace P] [--path PATH] [--watch NAME=PID[,PID]]…
//
// Every stream sends its frame n at its start + n times 100 ms, whatever happened to the frames before. Starts are
// spread over the 3 s of a segment and, within 100 ms, evenly: neither frames nor finals come in bursts. One thread
// and one epoll, so that the load takes little from what it measures; how late it sent is part of the answer.

#include <math.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "grpc.hpp"
#include "socket.hpp"
#include "stream.hpp"
#include "websocket.hpp"

namespace {

constexpr double kSegmentFrames = 30;
constexpr double kGolden = 0.6180339887;
constexpr double kAfterS = 0.5;  // frames sent on, so that the last events meet the same load
constexpr double kOpenS = 60, kEndS = 30;
constexpr size_t kOpeningAtOnce = 50;
constexpr size_t kCallsPerChannel = 25;

struct Options {
  std::string road, address, path = "/v1/audio/transcriptions/stream";
  size_t streams = 1;
  double seconds = 10, warm_up = 4, pace = 1;
  std::map<std::string, std::vector<int>> watch;
};

Options parse(int count, char** arguments) {
  if (count < 4) throw std::runtime_error("usage: load ws|grpc ADDRESS STREAMS [options]");
  Options options;
  options.road = arguments[1];
  options.address = arguments[2];
  options.streams = static_cast<size_t>(atol(arguments[3]));
  for (int index = 4; index + 1 < count; index += 2) {
    const std::string name = arguments[index], value = arguments[index + 1];
    if (name == "--seconds") {
      options.seconds = atof(value.c_str());
    } else if (name == "--warm-up") {
      options.warm_up = atof(value.c_str());
    } else if (name == "--pace") {
      options.pace = atof(value.c_str());
    } else if (name == "--path") {
      options.path = value;
    } else if (name == "--watch") {
      const size_t equals = value.find('=');
      std::stringstream pids(value.substr(equals + 1));
      for (std::string pid; std::getline(pids, pid, ',');)
        options.watch[value.substr(0, equals)].push_back(atoi(pid.c_str()));
    } else {
      throw std::runtime_error("unknown option " + name);
    }
  }
  return options;
}

// --- what processes use ------------------------------------------------------------------------------

// CPU seconds of a process by its own clock, which counts nanoseconds where /proc counts hundredths of a second.
double cpu_s(int pid) {
  clockid_t clock;
  timespec time{};
  if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &time)) return 0;
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

uint64_t resident_bytes(int pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
  uint64_t total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

struct Use {
  double cpu = 0;
  uint64_t resident = 0;
};

std::map<std::string, Use> used(const Options& options) {
  std::map<std::string, Use> found;
  for (const auto& [name, pids] : options.watch)
    for (const int pid : pids) {
      found[name].cpu += cpu_s(pid);
      found[name].resident += resident_bytes(pid);
    }
  found["load"] = {cpu_s(getpid()), resident_bytes(getpid())};
  return found;
}

// --- the run -----------------------------------------------------------------------------------------

class Load {
 public:
  explicit Load(const Options& options) : options_(options), epoll_(epoll_create1(0)) {
    timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(epoll_, EPOLL_CTL_ADD, timer_, EPOLLIN, nullptr);
    const sockaddr_in address = parse_address(options.address);
    for (size_t index = 0; index < options.streams; ++index) {
      if (options.road == "ws") {
        streams_.push_back(std::make_unique<websocket::Session>(window_, epoll_, address, options.path));
        continue;
      }
      if (index % kCallsPerChannel == 0) channels_.push_back(std::make_unique<grpc::Channel>(address, epoll_));
      streams_.push_back(std::make_unique<grpc::Call>(window_, *channels_.back()));
    }
  }

  void run() {
    before_ = used(options_);
    open();
    send();
    for (auto& stream : streams_)
      if (!stream->ended) stream->stop();
    const double deadline = now() + kEndS;
    while (now() < deadline && std::any_of(streams_.begin(), streams_.end(), [](auto& s) { return !s->ended; }))
      wait(now() + 0.1);
    for (auto& stream : streams_)
      if (!stream->ended) stream->end("it did not end in time");
  }

  void report() {
    std::map<std::string, size_t> failures;
    for (auto& stream : streams_)
      if (stream->failure) ++failures[stream->failure];
    printf("{\"streams\": %zu, \"seconds\": %.6f, \"frames\": %llu, \"messages\": %llu", streams_.size(),
           window_.end - window_.start, static_cast<unsigned long long>(window_.frames),
           static_cast<unsigned long long>(window_.messages));
    list("latencies_us", window_.latencies_us);
    list("late_us", window_.late_us);
    printf(", \"processes\": {");
    const char* separator = "";
    for (const auto& [name, use] : at_end_) {
      printf("%s\"%s\": {\"cpu_s\": %.6f, \"resident_before\": %llu, \"resident\": %llu}", separator, name.c_str(),
             use.cpu - at_start_[name].cpu, static_cast<unsigned long long>(before_[name].resident),
             static_cast<unsigned long long>(use.resident));
      separator = ", ";
    }
    printf("}, \"failures\": {");
    separator = "";
    for (const auto& [reason, times] : failures) {
      printf("%s\"%s\": %zu", separator, reason.c_str(), times);
      separator = ", ";
    }
    printf("}}\n");
  }

 private:
  static void list(const char* name, const std::vector<uint32_t>& values) {
    printf(", \"%s\": [", name);
    for (size_t index = 0; index < values.size(); ++index) printf(index ? ",%u" : "%u", values[index]);
    printf("]");
  }

  void open() {
    const double deadline = now() + kOpenS;
    size_t next = 0;
    for (;;) {
      size_t ready = 0;
      for (size_t index = 0; index < next; ++index) ready += streams_[index]->ready || streams_[index]->ended;
      if (ready == streams_.size()) return;
      if (now() > deadline) throw std::runtime_error("not all streams could be opened in time");
      while (next < streams_.size() && next - ready < kOpeningAtOnce) streams_[next++]->open();
      wait(now() + 0.01);
    }
  }

  // Streams are due in turn, so the next one that is due is the next one of the ring.
  void send() {
    const double frame_s = kFrameS / options_.pace;
    const double spread_s = kSegmentFrames * frame_s;
    const double first = now() + 0.1;
    const auto count = static_cast<double>(streams_.size());
    window_.start = first + spread_s + options_.warm_up;
    window_.end = window_.start + options_.seconds;
    bool started = false, measured = false;
    for (uint64_t turn = 0;; ++turn) {
      const auto round = static_cast<double>(turn / streams_.size());
      const auto index = static_cast<double>(turn % streams_.size());
      const double due = first + round * frame_s + index * frame_s / count;
      if (due > window_.end + kAfterS) break;
      while (now() < due) wait(due);
      if (!started && due >= window_.start) {
        at_start_ = used(options_);
        started = true;
      }
      if (!measured && due >= window_.end) {
        at_end_ = used(options_);
        measured = true;
      }
      Stream& stream = *streams_[turn % streams_.size()];
      const bool begun = round >= floor(kSegmentFrames * fmod(index * kGolden, 1.0));
      if (begun && !stream.ended) stream.send(due);
      if (turn % 64 == 0) poll(0);
    }
  }

  void wait(double until) {
    itimerspec when{};
    when.it_value.tv_sec = static_cast<time_t>(until);
    when.it_value.tv_nsec = static_cast<long>((until - floor(until)) * 1e9);
    timerfd_settime(timer_, TFD_TIMER_ABSTIME, &when, nullptr);
    poll(-1);
  }

  void poll(int timeout) {
    epoll_event ready[256];
    const int number = epoll_wait(epoll_, ready, 256, timeout);
    for (int index = 0; index < number; ++index) {
      auto* reader = static_cast<Readable*>(ready[index].data.ptr);
      if (reader) {
        reader->on_ready(ready[index].events);
      } else {
        uint64_t times;
        (void)!read(timer_, &times, sizeof times);
      }
    }
  }

  const Options& options_;
  int epoll_, timer_;
  Window window_;
  std::vector<std::unique_ptr<grpc::Channel>> channels_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::map<std::string, Use> before_, at_start_, at_end_;
};

}  // namespace

int main(int count, char** arguments) {
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  try {
    const Options options = parse(count, arguments);
    Load load(options);
    load.run();
    load.report();
  } catch (const std::exception& error) {
    fprintf(stderr, "load: %s\n", error.what());
    return 1;
  }
}
