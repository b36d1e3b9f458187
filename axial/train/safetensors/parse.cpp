// SPDX-License-Identifier: Apache-2.0
// Header parser of safetensors.h. Every number comes from an untrusted file: nothing is used before it is
// bounded, and every fault names the file and the tensor.
#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "axial/core/text/text.h"
#include "axial/train/safetensors/safetensors.h"

namespace axial::train {
namespace {

using nlohmann::json;

constexpr std::string_view kOp = "safetensors";
constexpr size_t kMaxDims = 64;

struct StoredType {
  std::string_view name;
  int64_t size;
  std::optional<DType> dtype;
};

constexpr std::array<StoredType, 15> kStoredTypes{{{"F64", 8, DType::kF64},
                                                   {"F32", 4, DType::kF32},
                                                   {"F16", 2, DType::kF16},
                                                   {"BF16", 2, DType::kBF16},
                                                   {"I64", 8, DType::kI64},
                                                   {"I32", 4, DType::kI32},
                                                   {"I16", 2, DType::kI16},
                                                   {"I8", 1, DType::kI8},
                                                   {"U8", 1, DType::kU8},
                                                   {"BOOL", 1, DType::kBool},
                                                   {"U16", 2, std::nullopt},
                                                   {"U32", 4, std::nullopt},
                                                   {"U64", 8, std::nullopt},
                                                   {"F8_E4M3", 1, std::nullopt},
                                                   {"F8_E5M2", 1, std::nullopt}}};

const StoredType& stored_type(const std::string& name, std::string_view origin, const std::string& tensor) {
  for (const StoredType& row : kStoredTypes) {
    if (row.name == name) return row;
  }
  fail(kOp, "'{}': tensor '{}' has unknown dtype '{}'", origin, tensor, name);
}

// nlohmann keeps the last of two equal keys; a second tensor of one name must not vanish like that.
// The depth bound keeps hostile nesting from costing memory.
json parse_json(std::string_view text, std::string_view origin) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (event == json::parse_event_t::object_start || event == json::parse_event_t::array_start) {
      AXIAL_CHECK(depth <= 2, kOp, "'{}': header is nested too deeply", origin);
      keys.emplace_back();
    } else if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      AXIAL_CHECK(keys.back().insert(key).second, kOp, "'{}': '{}' appears twice in the header", origin, key);
    } else if (event == json::parse_event_t::object_end || event == json::parse_event_t::array_end) {
      keys.pop_back();
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& e) {
    fail(kOp, "'{}': header is not valid JSON: {}", origin, e.what());
  }
}

int64_t bounded_integer(const json& value, std::string_view origin, const std::string& tensor,
                        std::string_view what) {
  AXIAL_CHECK(value.is_number_unsigned() &&
                  value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
              kOp, "'{}': tensor '{}' has {} {}; expected whole numbers below 2^63", origin, tensor, what,
              value.dump(-1, ' ', false, json::error_handler_t::replace));
  return value.get<int64_t>();
}

TensorEntry parse_entry(const std::string& name, const json& value, std::string_view origin) {
  AXIAL_CHECK(value.is_object() && value.size() == 3 && value.contains("dtype") && value.contains("shape") &&
                  value.contains("data_offsets"),
              kOp, "'{}': tensor '{}' must have exactly dtype, shape and data_offsets", origin, name);
  const json& dtype = value["dtype"];
  const json& shape = value["shape"];
  const json& offsets = value["data_offsets"];
  AXIAL_CHECK(dtype.is_string(), kOp, "'{}': dtype of tensor '{}' is not a string", origin, name);
  AXIAL_CHECK(shape.is_array() && shape.size() <= kMaxDims, kOp,
              "'{}': shape of tensor '{}' is not a list of at most {} sizes", origin, name, kMaxDims);
  AXIAL_CHECK(offsets.is_array() && offsets.size() == 2, kOp,
              "'{}': data_offsets of tensor '{}' is not a pair", origin, name);
  TensorEntry entry;
  entry.name = name;
  entry.stored_dtype = dtype.get<std::string>();
  const StoredType& type = stored_type(entry.stored_dtype, origin, name);
  entry.dtype = type.dtype;
  int64_t bytes = type.size;
  bool empty = false;
  for (const json& item : shape) {
    const int64_t size = bounded_integer(item, origin, name, "size");
    entry.shape.push_back(size);
    empty = empty || size == 0;
    AXIAL_CHECK(size == 0 || !__builtin_mul_overflow(bytes, size, &bytes), kOp,
                "'{}': sizes of tensor '{}' overflow", origin, name);
  }
  if (empty) bytes = 0;
  entry.begin = bounded_integer(offsets[0], origin, name, "offset");
  entry.end = bounded_integer(offsets[1], origin, name, "offset");
  AXIAL_CHECK(entry.begin <= entry.end && entry.end - entry.begin == bytes, kOp,
              "'{}': data_offsets [{}, {}] of tensor '{}' do not fit its dtype and shape; expected {} bytes",
              origin, entry.begin, entry.end, name, bytes);
  return entry;
}

void parse_metadata(const json& value, std::string_view origin, std::map<std::string, std::string>& out) {
  AXIAL_CHECK(value.is_object(), kOp, "'{}': __metadata__ is not an object", origin);
  for (const auto& [key, item] : value.items()) {
    AXIAL_CHECK(item.is_string(), kOp, "'{}': __metadata__ '{}' is not a string", origin, key);
    out[key] = item.get<std::string>();
  }
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view origin) {
  AXIAL_CHECK(file.size() >= 8, kOp, "'{}' is not a safetensors file: {} bytes are too few", origin,
              file.size());
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<uint64_t>(file[i]);
  AXIAL_CHECK(length <= static_cast<uint64_t>(kMaxHeaderBytes), kOp,
              "'{}' is not a safetensors file: header length {} is above {}", origin, length,
              kMaxHeaderBytes);
  AXIAL_CHECK(length <= file.size() - 8, kOp, "'{}' is truncated: header of {} bytes in a file of {}", origin,
              length, file.size());
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, length);
  AXIAL_CHECK(!text.empty() && text.front() == '{', kOp, "'{}': header does not start with '{{'", origin);
  const json root = parse_json(text, origin);
  AXIAL_CHECK(root.is_object(), kOp, "'{}': header is not an object", origin);

  SafetensorsHeader header;
  header.data_begin = static_cast<int64_t>(8 + length);
  for (const auto& [name, value] : root.items()) {
    if (name == "__metadata__") {
      parse_metadata(value, origin, header.metadata);
    } else {
      header.tensors.push_back(parse_entry(name, value, origin));
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t expected = 0;
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    const TensorEntry& entry = header.tensors[i];
    AXIAL_CHECK(entry.begin == expected, kOp, "'{}': tensor '{}' begins at byte {}; expected {} ({})", origin,
                entry.name, entry.begin, expected, entry.begin < expected ? "tensors overlap" : "a hole");
    expected = entry.end;
    header.index_[entry.name] = i;
  }
  const int64_t data_bytes = static_cast<int64_t>(file.size()) - header.data_begin;
  AXIAL_CHECK(expected == data_bytes, kOp, "'{}' {}; expected {} bytes of tensors, got {}", origin,
              data_bytes < expected ? "is truncated" : "has bytes after its tensors", expected, data_bytes);
  return header;
}

const TensorEntry* SafetensorsHeader::find(std::string_view name) const {
  const auto it = index_.find(name);
  return it == index_.end() ? nullptr : &tensors[it->second];
}

std::vector<std::string> SafetensorsHeader::names() const {
  std::vector<std::string> out;
  for (const TensorEntry& entry : tensors) out.push_back(entry.name);
  return out;
}

}  // namespace axial::train
