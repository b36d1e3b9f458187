// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the header parser: any bytes give a valid header or a ValueError, and every tensor of
// a valid header lies inside the input.
#include <cstdlib>
#include <string>
#include <vector>

#include "axial/train/safetensors/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const axial::train::SafetensorsHeader header = axial::train::parse_safetensors(bytes, "fuzz");
    for (const axial::train::TensorEntry& entry : header.tensors) {
      if (entry.begin < 0 || entry.end < entry.begin) std::abort();
      if (static_cast<size_t>(header.data_begin + entry.end) > size) std::abort();
    }
  } catch (const axial::ValueError&) {
  }
  return 0;
}

/// Where testing/fuzz/short_run.cpp begins.
std::vector<std::string> fuzz_seeds() {
  const auto file = [](const std::string& header, size_t data_bytes) {
    std::string text(8, '\0');
    text[0] = static_cast<char>(header.size());  // little-endian; the headers here are shorter than 256
    return text + header + std::string(data_bytes, 'x');
  };
  return {file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8),
          file(R"({"__metadata__":{"k":"v"},"a":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},)"
               R"("b":{"dtype":"I64","shape":[],"data_offsets":[4,12]}})",
               12),
          file("{}  ", 0)};
}
