// A session of perch.v1 over a plain WebSocket (RFC 6455, as far as this needs it). Audio frames are masked once.
#pragma once

#include <unistd.h>

#include <cstring>
#include <string>
#include <string_view>

#include "socket.hpp"
#include "stream.hpp"

namespace websocket {

inline std::string masked(int opcode, std::string payload) {
  const unsigned char key[4] = {0x5a, 0xa5, 0x3c, 0xc3};
  std::string frame(1, static_cast<char>(0x80 | opcode));
  if (payload.size() < 126) {
    frame.push_back(static_cast<char>(0x80 | payload.size()));
  } else {
    frame.push_back(static_cast<char>(0x80 | 126));
    frame.push_back(static_cast<char>(payload.size() >> 8));
    frame.push_back(static_cast<char>(payload.size()));
  }
  frame.append(reinterpret_cast<const char*>(key), 4);
  for (size_t index = 0; index < payload.size(); ++index) payload[index] ^= static_cast<char>(key[index % 4]);
  return frame + payload;
}

// The value of a text key at the top of a JSON object, as it stands there; what is looked for has no escapes.
inline std::string_view text_of(std::string_view json, std::string_view key) {
  size_t at = json.find(key);
  if (at == std::string_view::npos) return {};
  at = json.find('"', at + key.size());
  if (at == std::string_view::npos) return {};
  const size_t end = json.find('"', at + 1);
  return end == std::string_view::npos ? std::string_view{} : json.substr(at + 1, end - at - 1);
}

class Session : public Stream, public Readable {
 public:
  Session(Window& window, int epoll, const sockaddr_in& address, const std::string& path)
      : Stream(window), epoll_(epoll), address_(address), path_(path) {}

  ~Session() override {
    if (fd_ >= 0) close(fd_);
  }

  void open() override {
    fd_ = connect_to(address_);
    out_ = "GET " + path_ +
           " HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
           "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    watch(epoll_, EPOLL_CTL_ADD, fd_, EPOLLIN | EPOLLOUT, this);
  }

  void send_frame() override {
    static const std::string frame = masked(2, audio());
    write(frame);
  }

  void stop() override {
    stopping = true;
    static const std::string frame = masked(1, R"({"type":"stop"})");
    write(frame);
  }

  void on_ready(uint32_t events) override {
    if (events & EPOLLOUT) flush();
    if (events & ~static_cast<uint32_t>(EPOLLOUT)) receive();
  }

 private:
  static std::string audio() {
    std::string samples(kFrameBytes, '\0');
    for (size_t index = 0; index < samples.size(); ++index) samples[index] = static_cast<char>(index * 37);
    return samples;
  }

  void write(std::string_view frame) {
    if (ended) return;
    if (!out_.empty()) {
      out_.append(frame);
      return;
    }
    const ssize_t written = ::send(fd_, frame.data(), frame.size(), MSG_NOSIGNAL);
    if (written < 0 && errno != EAGAIN) return finish("the connection broke");
    const size_t done = written < 0 ? 0 : static_cast<size_t>(written);
    if (done == frame.size()) return;
    out_.assign(frame.substr(done));
    watch(epoll_, EPOLL_CTL_MOD, fd_, EPOLLIN | EPOLLOUT, this);
  }

  void flush() {
    const ssize_t written = ::send(fd_, out_.data(), out_.size(), MSG_NOSIGNAL);
    if (written < 0 && errno != EAGAIN) return finish("the connection broke");
    if (written > 0) out_.erase(0, static_cast<size_t>(written));
    if (out_.empty()) watch(epoll_, EPOLL_CTL_MOD, fd_, EPOLLIN, this);
  }

  void receive() {
    static char buffer[1 << 16];
    const ssize_t size = read(fd_, buffer, sizeof buffer);
    const double at = now();
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) return finish(upgraded_ ? "the connection broke" : "refused");
    in_.append(buffer, static_cast<size_t>(size));
    std::string_view rest = in_;
    if (!upgraded_ && !upgrade(rest)) return;
    while (message(rest, at)) {
    }
    if (!ended) in_.erase(0, in_.size() - rest.size());
  }

  bool upgrade(std::string_view& rest) {
    const size_t end = rest.find("\r\n\r\n");
    if (end == std::string_view::npos) return false;
    if (rest.substr(0, 12) != "HTTP/1.1 101") {
      finish("refused");
      return false;
    }
    upgraded_ = true;
    rest.remove_prefix(end + 4);
    write(masked(1, R"({"type":"start","config":{"sample_rate":16000,"encoding":"pcm16","language":"en-US"}})"));
    return true;
  }

  bool message(std::string_view& rest, double at) {
    if (ended || rest.size() < 2) return false;
    const auto* head = reinterpret_cast<const uint8_t*>(rest.data());
    size_t length = head[1] & 0x7f, start = 2;
    if (length == 126) {
      if (rest.size() < 4) return false;
      length = static_cast<size_t>(head[2]) << 8 | head[3];
      start = 4;
    } else if (length == 127) {
      finish("a message of more than 64 KiB");
      return false;
    }
    if (rest.size() < start + length) return false;
    take(head[0] & 0x0f, rest.substr(start, length), at);
    rest.remove_prefix(start + length);
    return true;
  }

  void take(int opcode, std::string_view payload, double at) {
    if (opcode == 9) return write(masked(10, std::string(payload)));
    if (opcode == 8) {
      const bool normal = payload.size() >= 2 && payload[0] == 0x03 && static_cast<uint8_t>(payload[1]) == 0xe8;
      return finish(normal && stopping ? nullptr : "closed with an error");
    }
    if (opcode != 1) return;
    const std::string_view type = text_of(payload, "\"type\"");
    if (type == "partial" || type == "final") {
      heard(text_of(payload, "\"text\""), at);
    } else if (type == "ready") {
      ready = true;
    }
  }

  void finish(const char* reason) {
    end(reason);
    epoll_ctl(epoll_, EPOLL_CTL_DEL, fd_, nullptr);
  }

  int epoll_;
  sockaddr_in address_;
  std::string path_;
  int fd_ = -1;
  bool upgraded_ = false;
  std::string in_, out_;
};

}  // namespace websocket
