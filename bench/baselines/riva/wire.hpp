// Just enough protobuf and gRPC framing for the two programs of the benchmark, without a message object per frame.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace wire {

// --- protobuf, written -------------------------------------------------------------------------------

inline void varint(std::string& out, uint64_t value) {
  while (value > 0x7f) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

inline void number(std::string& out, int field, uint64_t value) {
  varint(out, static_cast<uint64_t>(field) << 3);
  varint(out, value);
}

inline void real(std::string& out, int field, float value) {
  varint(out, static_cast<uint64_t>(field) << 3 | 5);
  char raw[4];
  std::memcpy(raw, &value, 4);  // both ends are little-endian
  out.append(raw, 4);
}

inline void bytes(std::string& out, int field, std::string_view value) {
  varint(out, static_cast<uint64_t>(field) << 3 | 2);
  varint(out, value.size());
  out.append(value);
}

// --- protobuf, read ----------------------------------------------------------------------------------

inline bool read_varint(std::string_view& in, uint64_t& value) {
  value = 0;
  for (int shift = 0; shift < 64 && !in.empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(in.front());
    in.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return true;
  }
  return false;
}

// Calls visit(field, bytes, number) for every field; what is not length-delimited has empty bytes.
// False for bytes that are no message.
template <class Visit>
bool fields(std::string_view in, Visit visit) {
  while (!in.empty()) {
    uint64_t tag = 0, value = 0;
    if (!read_varint(in, tag)) return false;
    const int field = static_cast<int>(tag >> 3);
    switch (tag & 7) {
      case 0:
        if (!read_varint(in, value)) return false;
        visit(field, std::string_view{}, value);
        break;
      case 2:
        if (!read_varint(in, value) || value > in.size()) return false;
        visit(field, in.substr(0, value), uint64_t{0});
        in.remove_prefix(value);
        break;
      case 1:
      case 5: {
        const size_t width = (tag & 7) == 1 ? 8 : 4;
        if (in.size() < width) return false;
        visit(field, std::string_view{}, uint64_t{0});
        in.remove_prefix(width);
        break;
      }
      default:
        return false;
    }
  }
  return true;
}

// --- gRPC --------------------------------------------------------------------------------------------

inline void grpc_message(std::string& out, std::string_view message) {
  const auto size = static_cast<uint32_t>(message.size());
  const char head[5] = {0, static_cast<char>(size >> 24), static_cast<char>(size >> 16),
                        static_cast<char>(size >> 8), static_cast<char>(size)};
  out.append(head, 5);
  out.append(message);
}

// Whole messages out of pieces of any size.
class GrpcReader {
 public:
  template <class Take>
  void feed(const char* data, size_t size, Take take) {
    if (rest_.empty()) {
      const size_t used = messages({data, size}, take);
      rest_.assign(data + used, size - used);
    } else {
      rest_.append(data, size);
      rest_.erase(0, messages(rest_, take));
    }
  }

 private:
  template <class Take>
  static size_t messages(std::string_view in, Take take) {
    size_t used = 0;
    while (in.size() - used >= 5) {
      const auto* head = reinterpret_cast<const uint8_t*>(in.data()) + used;
      const size_t length = static_cast<size_t>(head[1]) << 24 | head[2] << 16 | head[3] << 8 | head[4];
      if (in.size() - used - 5 < length) break;
      take(in.substr(used + 5, length));
      used += 5 + length;
    }
    return used;
  }

  std::string rest_;
};

}  // namespace wire
