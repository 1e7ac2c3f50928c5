// What the event loop knows of a socket.
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

struct Readable {
  virtual ~Readable() = default;
  virtual void on_ready(uint32_t events) = 0;
};

inline sockaddr_in parse_address(const std::string& address) {
  const size_t colon = address.rfind(':');
  sockaddr_in found{};
  found.sin_family = AF_INET;
  found.sin_port = htons(static_cast<uint16_t>(atoi(address.c_str() + colon + 1)));
  if (inet_pton(AF_INET, address.substr(0, colon).c_str(), &found.sin_addr) != 1)
    throw std::runtime_error("the address must be like 127.0.0.1:8080, not " + address);
  return found;
}

inline int connect_to(const sockaddr_in& address) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0) throw std::runtime_error("no more sockets: raise the limit of open files");
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) && errno != EINPROGRESS)
    throw std::runtime_error("nothing listens there");
  return fd;
}

inline void watch(int epoll, int operation, int fd, uint32_t events, Readable* reader) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = reader;
  epoll_ctl(epoll, operation, fd, &event);
}
