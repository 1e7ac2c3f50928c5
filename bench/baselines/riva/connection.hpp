// An HTTP/2 connection over a non-blocking socket: nghttp2 does the protocol, this moves its bytes.
#pragma once

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace http2 {

constexpr int kStreamWindow = 1 << 20;
constexpr int kConnectionWindow = 1 << 26;

inline nghttp2_nv header(const char* name, const char* value) {
  return {reinterpret_cast<uint8_t*>(const_cast<char*>(name)),
          reinterpret_cast<uint8_t*>(const_cast<char*>(value)), strlen(name), strlen(value),
          NGHTTP2_NV_FLAG_NONE};
}

// A data provider's bytes: what is there of `out`, else wait until it is resumed.
inline ssize_t take(std::string& out, uint8_t* buffer, size_t length) {
  if (out.empty()) return NGHTTP2_ERR_DEFERRED;
  const size_t size = std::min(length, out.size());
  memcpy(buffer, out.data(), size);
  out.erase(0, size);
  return static_cast<ssize_t>(size);
}

class Connection {
 public:
  // `tag` is what epoll tells of this socket.
  Connection(int fd, int epoll, void* tag) : fd_(fd), epoll_(epoll), tag_(tag) {
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    wait_for(EPOLL_CTL_ADD, EPOLLIN);
  }
  Connection(const Connection&) = delete;
  virtual ~Connection() {
    nghttp2_session_del(session);
    close(fd_);
  }

  // Both windows wide open: what is measured is the gateway, not flow control.
  void settings() {
    const nghttp2_settings_entry entry = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow};
    nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, &entry, 1);
    nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
  }

  // False when the connection is over.
  bool receive() {
    static uint8_t buffer[1 << 18];
    const ssize_t size = read(fd_, buffer, sizeof buffer);
    if (size < 0) return errno == EAGAIN || errno == EINTR;
    return size > 0 && nghttp2_session_mem_recv(session, buffer, size) >= 0;
  }

  bool send() {
    for (;;) {
      while (out_.size() < (1 << 18)) {
        const uint8_t* data = nullptr;
        const ssize_t size = nghttp2_session_mem_send(session, &data);
        if (size < 0) return false;
        if (size == 0) break;
        out_.append(reinterpret_cast<const char*>(data), size);
      }
      if (out_.empty()) break;
      const ssize_t written = ::send(fd_, out_.data(), out_.size(), MSG_NOSIGNAL);
      if (written < 0 && errno != EAGAIN && errno != EINTR) return false;
      if (written > 0) out_.erase(0, written);
      if (written < 0 || !out_.empty()) break;
    }
    if (const bool full = !out_.empty(); full != full_) {
      full_ = full;
      wait_for(EPOLL_CTL_MOD, full ? EPOLLIN | EPOLLOUT : EPOLLIN);
    }
    return nghttp2_session_want_read(session) || nghttp2_session_want_write(session);
  }

  // Nothing is heard of the socket any more.
  void drop() { epoll_ctl(epoll_, EPOLL_CTL_DEL, fd_, nullptr); }

  nghttp2_session* session = nullptr;

 private:
  void wait_for(int operation, uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.ptr = tag_;
    epoll_ctl(epoll_, operation, fd_, &event);
  }

  int fd_;
  int epoll_;
  void* tag_;
  bool full_ = false;
  std::string out_;
};

}  // namespace http2
