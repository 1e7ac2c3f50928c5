// A Riva that recognises nothing at next to no cost, so that a gateway in front of it is what is measured.
//
// It answers by the number of bytes of audio it has received, and by nothing else: a response for every 6,400
// bytes (200 ms of 16 kHz PCM16), each with one more word, "b" and that number; every 15th response, 3 s, is a
// final with its words' times. So whoever hears "b12800" knows which frame brought it about.
//
// One thread: epoll and nghttp2, HTTP/2 with prior knowledge.

#include <arpa/inet.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "connection.hpp"
#include "wire.hpp"

namespace {

constexpr uint64_t kBytesPerResponse = 6'400;
constexpr uint64_t kBytesPerMs = 32;
constexpr size_t kWordsPerFinal = 15;

constexpr const char* kStreaming = "/nvidia.riva.asr.RivaSpeechRecognition/StreamingRecognize";
constexpr const char* kConfig = "/nvidia.riva.asr.RivaSpeechRecognition/GetRivaSpeechRecognitionConfig";
constexpr const char* kHealth = "/grpc.health.v1.Health/Check";

// --- what it says ------------------------------------------------------------------------------------

class Recogniser {
 public:
  // The responses that `size` more bytes of audio bring about, in gRPC frames.
  void hear(uint64_t size, std::string& out) {
    heard_ += size;
    while (heard_ - answered_ >= kBytesPerResponse) {
      answered_ += kBytesPerResponse;
      words_.push_back(answered_);
      respond(words_.size() == kWordsPerFinal, out);
    }
  }

  // At the end of the audio a segment that has begun becomes final.
  void finish(std::string& out) {
    if (!words_.empty()) respond(true, out);
  }

 private:
  void respond(bool final, std::string& out) {
    std::string text, alternative, result, response;
    for (const uint64_t word : words_) {
      if (!text.empty()) text.push_back(' ');
      text += "b" + std::to_string(word);
    }
    wire::bytes(alternative, 1, text);
    if (final) {
      wire::real(alternative, 2, 0.9f);
      for (const uint64_t word : words_) wire::bytes(alternative, 3, timed(word));
      words_.clear();
    }
    wire::bytes(result, 1, alternative);
    if (final) wire::number(result, 2, 1);
    if (!final) wire::real(result, 3, 0.5f);
    wire::number(result, 5, 1);
    wire::real(result, 6, static_cast<float>(answered_ / kBytesPerMs) / 1000.f);
    wire::bytes(response, 1, result);
    wire::grpc_message(out, response);
  }

  static std::string timed(uint64_t word) {
    std::string info;
    wire::number(info, 1, (word - kBytesPerResponse) / kBytesPerMs);
    wire::number(info, 2, word / kBytesPerMs);
    wire::bytes(info, 3, "b" + std::to_string(word));
    wire::real(info, 4, 0.9f);
    return info;
  }

  uint64_t heard_ = 0;
  uint64_t answered_ = 0;
  std::vector<uint64_t> words_;
};

std::string models() {
  std::string config, out;
  wire::bytes(config, 1, "scripted");
  const char* parameters[][2] = {
      {"type", "online"}, {"streaming", "True"}, {"language_code", "en-US"}, {"sample_rate", "16000"}};
  for (const auto& [key, value] : parameters) {
    std::string entry;
    wire::bytes(entry, 1, key);
    wire::bytes(entry, 2, value);
    wire::bytes(config, 2, entry);
  }
  wire::bytes(out, 1, config);
  return out;
}

// --- a call ------------------------------------------------------------------------------------------

struct Call {
  std::string path;
  std::string out;
  wire::GrpcReader in;
  Recogniser recogniser;
  bool done = false;
  const char* status = "0";
};

class Peer : public http2::Connection {
 public:
  Peer(int fd, int epoll) : Connection(fd, epoll, this) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_server_new(&session, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    settings();
  }

 private:
  Call* find(int32_t id) {
    const auto found = calls_.find(id);
    return found == calls_.end() ? nullptr : &found->second;
  }

  static int on_begin(nghttp2_session*, const nghttp2_frame* frame, void* self) {
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) static_cast<Peer*>(self)->calls_[frame->hd.stream_id];
    return 0;
  }

  static int on_header(nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name, size_t name_size,
                       const uint8_t* value, size_t size, uint8_t, void* self) {
    Call* call = static_cast<Peer*>(self)->find(frame->hd.stream_id);
    if (call && name_size == 5 && !memcmp(name, ":path", 5))
      call->path.assign(reinterpret_cast<const char*>(value), size);
    return 0;
  }

  static int on_data(nghttp2_session* session, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
    Call* call = static_cast<Peer*>(self)->find(id);
    if (!call || call->path != kStreaming) return 0;
    call->in.feed(reinterpret_cast<const char*>(data), size, [call](std::string_view message) {
      wire::fields(message, [call](int field, std::string_view bytes, uint64_t) {
        if (field == 2) call->recogniser.hear(bytes.size(), call->out);
      });
    });
    if (!call->out.empty()) nghttp2_session_resume_data(session, id);
    return 0;
  }

  static int on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* self) {
    const auto type = frame->hd.type;
    if (type != NGHTTP2_HEADERS && type != NGHTTP2_DATA) return 0;
    Call* call = static_cast<Peer*>(self)->find(frame->hd.stream_id);
    if (!call) return 0;
    if (type == NGHTTP2_HEADERS) begin(session, frame->hd.stream_id);
    if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
      answer(*call);
      nghttp2_session_resume_data(session, frame->hd.stream_id);
    }
    return 0;
  }

  static void begin(nghttp2_session* session, int32_t id) {
    const nghttp2_nv headers[] = {http2::header(":status", "200"),
                                  http2::header("content-type", "application/grpc")};
    nghttp2_data_provider provider{};
    provider.read_callback = on_read;
    nghttp2_submit_response(session, id, headers, 2, &provider);
  }

  // The client has said all it will say.
  static void answer(Call& call) {
    call.done = true;
    if (call.path == kStreaming) {
      call.recogniser.finish(call.out);
    } else if (call.path == kConfig) {
      wire::grpc_message(call.out, models());
    } else if (call.path == kHealth) {
      wire::grpc_message(call.out, "\x08\x01");  // SERVING
    } else {
      call.status = "12";  // UNIMPLEMENTED
    }
  }

  static ssize_t on_read(nghttp2_session* session, int32_t id, uint8_t* buffer, size_t length, uint32_t* flags,
                         nghttp2_data_source*, void* self) {
    Call* call = static_cast<Peer*>(self)->find(id);
    if (!call) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    if (!call->done || !call->out.empty()) return http2::take(call->out, buffer, length);
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    const nghttp2_nv trailer = http2::header("grpc-status", call->status);
    nghttp2_submit_trailer(session, id, &trailer, 1);
    return 0;
  }

  static int on_close(nghttp2_session*, int32_t id, uint32_t, void* self) {
    static_cast<Peer*>(self)->calls_.erase(id);
    return 0;
  }

  std::unordered_map<int32_t, Call> calls_;
};

// --- the loop ----------------------------------------------------------------------------------------

int listen_on(uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  socklen_t size = sizeof address;
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), size) || listen(fd, 1024)) {
    perror("listen");
    exit(1);
  }
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
  fflush(stdout);
  return fd;
}

void accept_all(int listener, int epoll) {
  for (int fd; (fd = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK)) >= 0;) {
    auto* peer = new Peer(fd, epoll);
    peer->send();
  }
}

}  // namespace

int main(int count, char** arguments) {
  signal(SIGPIPE, SIG_IGN);
  const int epoll = epoll_create1(0);
  const int listener = listen_on(static_cast<uint16_t>(count > 1 ? atoi(arguments[1]) : 0));
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = nullptr;
  epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
  epoll_event ready[256];
  for (;;) {
    const int number = epoll_wait(epoll, ready, 256, -1);
    for (int index = 0; index < number; ++index) {
      auto* peer = static_cast<Peer*>(ready[index].data.ptr);
      if (!peer) {
        accept_all(listener, epoll);
      } else if (((ready[index].events & ~EPOLLOUT) && !peer->receive()) || !peer->send()) {
        delete peer;
      }
    }
  }
}
