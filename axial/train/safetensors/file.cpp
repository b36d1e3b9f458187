// SPDX-License-Identifier: Apache-2.0
// Mapped reader and streaming writer of safetensors.h.
#include <nlohmann/json.hpp>
#include <set>

#include "axial/core/text/text.h"
#include "axial/train/safetensors/safetensors.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "safetensors";

std::string_view stored_name(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "F64";
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kI64:
      return "I64";
    case DType::kI32:
      return "I32";
    case DType::kI16:
      return "I16";
    case DType::kI8:
      return "I8";
    case DType::kU8:
      return "U8";
    case DType::kBool:
      return "BOOL";
  }
  fail(kOp, "unknown dtype");
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::filesystem::path path)
    : path_(std::move(path)), map_(path_), header_(parse_safetensors(map_.bytes(), path_.string())) {}

const TensorEntry& SafetensorsFile::at(std::string_view name) const {
  const TensorEntry* entry = header_.find(name);
  AXIAL_CHECK(entry != nullptr, kOp, "'{}' has no tensor '{}'{}", path_.string(), name,
              did_you_mean(name, header_.names()));
  return *entry;
}

std::span<const std::byte> SafetensorsFile::bytes(std::string_view name) const {
  const TensorEntry& entry = at(name);
  return map_.bytes().subspan(static_cast<size_t>(header_.data_begin + entry.begin),
                              static_cast<size_t>(entry.bytes()));
}

int64_t TensorPlan::bytes() const {
  int64_t total = size_of(dtype);
  for (const int64_t size : shape) {
    AXIAL_CHECK(size >= 0 && !__builtin_mul_overflow(total, size, &total), kOp,
                "shape [{}] of '{}' has a negative size or overflows", fmt::join(shape, ", "), name);
  }
  return total;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     const std::vector<TensorPlan>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  // ordered_json keeps the order of the bytes, which is how people expect to list a file; its find is a
  // linear search, so duplicates are looked for here and entries are appended.
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  auto& rows = header.get_ref<nlohmann::ordered_json::object_t&>();
  if (!metadata.empty()) rows.push_back({"__metadata__", nlohmann::ordered_json(metadata)});
  std::set<std::string> seen{"__metadata__"};
  for (const TensorPlan& plan : tensors) {
    AXIAL_CHECK(seen.insert(plan.name).second, kOp, "cannot write '{}': tensor name '{}' is {}",
                path.string(), plan.name, plan.name == "__metadata__" ? "reserved" : "used twice");
    const int64_t begin = expected_;
    expected_ += plan.bytes();
    rows.push_back({plan.name, nlohmann::ordered_json{{"dtype", stored_name(plan.dtype)},
                                                      {"shape", plan.shape},
                                                      {"data_offsets", {begin, expected_}}}});
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // tensors start at a multiple of 8
  AXIAL_CHECK(static_cast<int64_t>(text.size()) <= kMaxHeaderBytes, kOp,
              "cannot write '{}': header of {} bytes is above {}", path.string(), text.size(),
              kMaxHeaderBytes);
  std::array<char, 8> length{};
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i) & 0xff);
  file_.write(length.data(), length.size());
  file_.write(text);
}

void SafetensorsWriter::write(std::span<const std::byte> piece) {
  AXIAL_CHECK(static_cast<int64_t>(piece.size()) <= expected_ - written_, kOp,
              "more bytes than planned; expected {}, got {}", expected_,
              written_ + static_cast<int64_t>(piece.size()));
  file_.write(piece.data(), piece.size());
  written_ += static_cast<int64_t>(piece.size());
}

WrittenFile SafetensorsWriter::finish() {
  AXIAL_CHECK(written_ == expected_, kOp, "fewer bytes than planned; expected {}, got {}", expected_,
              written_);
  std::string hash = file_.finish();
  return {file_.bytes_written(), std::move(hash)};
}

}  // namespace axial::train
