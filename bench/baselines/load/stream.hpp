// What one stream sent and heard, and the clock everything is measured with.
#pragma once

#include <time.h>

#include <cstdint>
#include <string_view>
#include <vector>

constexpr uint64_t kFrameBytes = 3'200;  // 100 ms of 16 kHz PCM16
constexpr double kFrameS = 0.1;

inline double now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

// The window of the measurement, and the latencies of the events whose frames were sent in it.
struct Window {
  double start = 0, end = 0;
  uint64_t frames = 0, messages = 0;
  std::vector<uint32_t> latencies_us;
  std::vector<uint32_t> late_us;

  bool holds(double at) const { return start <= at && at < end; }
};

class Stream {
 public:
  explicit Stream(Window& window) : window_(window) {}
  virtual ~Stream() = default;

  virtual void open() = 0;
  virtual void send_frame() = 0;
  virtual void stop() = 0;

  void send(double due) {
    const double at = now();
    sent_.push_back(at);
    if (window_.holds(at)) {
      ++window_.frames;
      window_.late_us.push_back(static_cast<uint32_t>((at - due) * 1e6));
    }
    send_frame();
  }

  // An event whose text ends in the word "b12800" came about by the frame that carried byte 12,800.
  void heard(std::string_view text, double at) {
    if (window_.holds(at)) ++window_.messages;
    const size_t mark = text.rfind('b');
    if (mark == std::string_view::npos) return;
    uint64_t count = 0;
    for (size_t index = mark + 1; index < text.size() && text[index] >= '0' && text[index] <= '9'; ++index)
      count = count * 10 + static_cast<uint64_t>(text[index] - '0');
    const uint64_t frame = count / kFrameBytes;
    if (frame < 1 || frame > sent_.size()) return;
    const double cause = sent_[frame - 1];
    if (window_.holds(cause)) window_.latencies_us.push_back(static_cast<uint32_t>((at - cause) * 1e6));
  }

  bool ready = false;
  bool stopping = false;
  bool ended = false;
  const char* failure = nullptr;

  void end(const char* reason) {
    if (ended) return;
    ended = true;
    failure = reason;
  }

 private:
  Window& window_;
  std::vector<double> sent_;
};
