// The same stream straight to the engine, StreamingRecognize over HTTP/2: the latency a gateway adds to.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>

#include "../riva/connection.hpp"
#include "../riva/wire.hpp"
#include "socket.hpp"
#include "stream.hpp"

namespace grpc {

class Call;

class Channel : public http2::Connection, public Readable {
 public:
  Channel(const sockaddr_in& address, int epoll) : Channel(connect_to(address), epoll) {}

  void on_ready(uint32_t) override {
    at = now();
    if (!receive() || !send()) fail();
  }

  void fail();

  std::unordered_map<int32_t, Call*> calls;
  double at = 0;

 private:
  Channel(int fd, int epoll);
  static Call* find(void* self, int32_t id) {
    auto& calls = static_cast<Channel*>(self)->calls;
    const auto found = calls.find(id);
    return found == calls.end() ? nullptr : found->second;
  }
  static int on_header(nghttp2_session*, const nghttp2_frame*, const uint8_t*, size_t, const uint8_t*, size_t,
                       uint8_t, void*);
  static int on_data(nghttp2_session*, uint8_t, int32_t, const uint8_t*, size_t, void*);
  static int on_close(nghttp2_session*, int32_t, uint32_t, void*);
};

class Call : public Stream {
 public:
  Call(Window& window, Channel& channel) : Stream(window), channel_(channel) {}

  void open() override {
    const nghttp2_nv headers[] = {
        http2::header(":method", "POST"),
        http2::header(":scheme", "http"),
        http2::header(":path", "/nvidia.riva.asr.RivaSpeechRecognition/StreamingRecognize"),
        http2::header(":authority", "localhost"),
        http2::header("te", "trailers"),
        http2::header("content-type", "application/grpc"),
    };
    nghttp2_data_provider provider{};
    provider.read_callback = on_read;
    provider.source.ptr = this;
    wire::grpc_message(out, config());
    id_ = nghttp2_submit_request(channel_.session, nullptr, headers, 6, &provider, nullptr);
    channel_.calls[id_] = this;
    if (!channel_.send()) channel_.fail();
  }

  void send_frame() override {
    static const std::string message = audio();
    out += message;
    push();
  }

  void stop() override {
    stopping = true;
    push();
  }

  void take(std::string_view response, double at) {
    wire::fields(response, [&](int field, std::string_view result, uint64_t) {
      if (field != 1) return;
      wire::fields(result, [&](int inner, std::string_view alternative, uint64_t) {
        if (inner != 1) return;
        wire::fields(alternative, [&](int innermost, std::string_view text, uint64_t) {
          if (innermost == 1) heard(text, at);
        });
      });
    });
  }

  std::string out;
  wire::GrpcReader in;
  bool ok = false;

 private:
  static std::string config() {
    std::string recognition, streaming, request;
    wire::number(recognition, 1, 1);
    wire::number(recognition, 2, 16'000);
    wire::bytes(recognition, 3, "en-US");
    wire::number(recognition, 8, 1);
    wire::bytes(streaming, 1, recognition);
    wire::number(streaming, 2, 1);
    wire::bytes(request, 1, streaming);
    return request;
  }

  static std::string audio() {
    std::string request, message;
    wire::bytes(request, 2, std::string(kFrameBytes, 'x'));
    wire::grpc_message(message, request);
    return message;
  }

  void push() {
    if (ended) return;
    nghttp2_session_resume_data(channel_.session, id_);
    if (!channel_.send()) channel_.fail();
  }

  static ssize_t on_read(nghttp2_session*, int32_t, uint8_t* buffer, size_t length, uint32_t* flags,
                         nghttp2_data_source* source, void*) {
    auto* call = static_cast<Call*>(source->ptr);
    if (call->stopping && call->out.empty()) {
      *flags |= NGHTTP2_DATA_FLAG_EOF;
      return 0;
    }
    return http2::take(call->out, buffer, length);
  }

  Channel& channel_;
  int32_t id_ = 0;
};

inline Channel::Channel(int fd, int epoll) : Connection(fd, epoll, static_cast<Readable*>(this)) {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
  nghttp2_session_client_new(&session, callbacks, this);
  nghttp2_session_callbacks_del(callbacks);
  settings();
}

inline void Channel::fail() {
  drop();
  for (auto& [id, call] : calls) call->end("the connection broke");
}

inline int Channel::on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                              const uint8_t* value, size_t size, uint8_t, void* self) {
  Call* call = find(self, frame->hd.stream_id);
  if (!call) return 0;
  call->ready = true;
  const std::string_view key(reinterpret_cast<const char*>(name), name_size);
  if (key == "grpc-status") call->ok = size == 1 && *value == '0';
  return 0;
}

inline int Channel::on_data(nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
  if (Call* call = find(self, id)) {
    const double at = static_cast<Channel*>(self)->at;
    call->in.feed(reinterpret_cast<const char*>(data), size,
                  [&](std::string_view message) { call->take(message, at); });
  }
  return 0;
}

inline int Channel::on_close(nghttp2_session*, int32_t id, uint32_t, void* self) {
  if (Call* call = find(self, id)) call->end(call->ok && call->stopping ? nullptr : "closed with an error");
  return 0;
}

}  // namespace grpc
