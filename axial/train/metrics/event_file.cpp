// SPDX-License-Identifier: Apache-2.0
// Wire formats of event_file.h. Field numbers are those of tensorboard's event.proto and summary.proto:
// Event {1 wall_time double, 2 step int64, 3 file_version string, 5 summary, 7 session_log {1 status}},
// Summary {1 value {1 tag string, 2 simple_value float}}.
#include "axial/train/metrics/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <system_error>

#include "axial/core/check/check.h"

namespace axial::train {
namespace {

namespace fs = std::filesystem;

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

template <class Unsigned>
void put_fixed(std::string& out, Unsigned value) {
  for (size_t i = 0; i < sizeof(Unsigned); ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

void put_key(std::string& out, uint32_t field, WireType type) { put_varint(out, field << 3 | type); }

void put_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event_head(int64_t step, double wall_time_s) {
  std::string event;
  put_key(event, 1, kFixed64);
  put_fixed(event, std::bit_cast<uint64_t>(wall_time_s));
  put_key(event, 2, kVarint);
  put_varint(event, static_cast<uint64_t>(step));
  return event;
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "localhost";
  return name.data();
}

/// A name that no file of the folder has; TensorBoard reads the files of a run in the order of names.
fs::path new_event_path(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail<IoError>("metrics", "cannot create '{}': {}", folder.string(), error.message());
  const auto seconds = static_cast<int64_t>(unix_seconds());
  for (int n = 0;; ++n) {
    const fs::path path = folder / fmt::format("events.out.tfevents.{:010}.{}.{:07}.{:03}", seconds,
                                               host_name(), static_cast<int64_t>(::getpid()), n);
    if (!fs::exists(path)) return path;
  }
}

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0u);
    table[i] = crc;
  }
  return table;
}

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = crc_table();
  uint32_t crc = ~0u;
  for (const char c : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xFF];
  return ~crc;
}

std::string tfrecord_frame(std::string_view data) {
  std::string frame;
  put_fixed(frame, uint64_t{data.size()});
  put_fixed(frame, masked_crc(frame));
  frame += data;
  put_fixed(frame, masked_crc(data));
  return frame;
}

std::string scalar_event(int64_t step, const std::vector<std::pair<std::string, double>>& scalars,
                         double wall_time_s) {
  std::string summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    put_bytes(value, 1, tag);
    put_key(value, 2, kFixed32);
    put_fixed(value, std::bit_cast<uint32_t>(static_cast<float>(number)));
    put_bytes(summary, 1, value);
  }
  std::string event = event_head(step, wall_time_s);
  put_bytes(event, 5, summary);
  return event;
}

EventFile::EventFile(const fs::path& folder, int64_t purge_from) : file_(new_event_path(folder)) {
  const int64_t step = purge_from >= 0 ? purge_from : 0;
  std::string version = event_head(step, unix_seconds());
  put_bytes(version, 3, "brain.Event:2");
  file_.append(tfrecord_frame(version));
  if (purge_from < 0) return;
  std::string start = event_head(step, unix_seconds());
  put_bytes(start, 7, "\x08\x01");  // SessionLog {status: START}
  file_.append(tfrecord_frame(start));
}

void EventFile::add_scalar(std::string_view tag, int64_t step, double value, double wall_time_s) {
  add_scalars(step, {{std::string(tag), value}}, wall_time_s);
}

void EventFile::add_scalars(int64_t step, const std::vector<std::pair<std::string, double>>& scalars,
                            double wall_time_s) {
  if (scalars.empty()) return;
  const double time = wall_time_s < 0 ? unix_seconds() : wall_time_s;
  file_.append(tfrecord_frame(scalar_event(step, scalars, time)));
}

}  // namespace axial::train
