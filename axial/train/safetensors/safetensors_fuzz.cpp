// SPDX-License-Identifier: Apache-2.0
// libFuzzer entry of the header parser: any bytes give a valid header or a ValueError, and every tensor of
// a valid header lies inside the input.
#include <cstdlib>

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
