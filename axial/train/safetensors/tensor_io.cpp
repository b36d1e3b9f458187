// SPDX-License-Identifier: Apache-2.0
// Torch side of safetensors: views over the mapped bytes are cut and copied, never handed out.
#include "axial/train/safetensors/tensor_io.h"

#include <ATen/ATen.h>

#include <cstring>

#include "axial/ops/common/kernel_call.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "safetensors";

DType known_dtype(const SafetensorsFile& file, const TensorEntry& entry) {
  if (!entry.dtype) {
    fail<UnsupportedError>(kOp, "'{}': tensor '{}' has dtype {}, which Axial does not compute with",
                           file.path().string(), entry.name, entry.stored_dtype);
  }
  return *entry.dtype;
}

}  // namespace

at::Tensor read_tensor(const SafetensorsFile& file, std::string_view name) {
  const TensorEntry& entry = file.at(name);
  at::Tensor out = at::empty(entry.shape, at::TensorOptions(ops::scalar_type_of(known_dtype(file, entry))));
  const std::span<const std::byte> bytes = file.bytes(name);
  if (!bytes.empty()) std::memcpy(out.data_ptr(), bytes.data(), bytes.size());
  return out;
}

at::Tensor describe_tensor(const SafetensorsFile& file, std::string_view name) {
  const TensorEntry& entry = file.at(name);
  return at::empty(entry.shape,
                   at::TensorOptions(ops::scalar_type_of(known_dtype(file, entry))).device(at::kMeta));
}

at::Tensor read_held(const SafetensorsFile& file, std::string_view name, const parallel::Holding& holding) {
  const TensorEntry& entry = file.at(name);
  if (holding.is_whole(entry.shape)) return read_tensor(file, name);
  AXIAL_CHECK(holding.slices.size() == entry.shape.size(), kOp,
              "'{}': tensor '{}' has {} dims; the layout slices {}", file.path().string(), name,
              entry.shape.size(), holding.slices.size());
  const int64_t element = size_of(known_dtype(file, entry));
  const int64_t count = holding.flat_end - holding.flat_begin;
  at::Tensor out = at::empty({count}, at::TensorOptions(ops::scalar_type_of(*entry.dtype)));
  const std::byte* from = file.bytes(name).data();
  auto* to = static_cast<std::byte*>(out.data_ptr());
  for (int64_t i = 0; i < count;) {  // runs of neighbours are copied at once
    const parallel::Holding::Run run = holding.run_at(entry.shape, i);
    std::memcpy(to + i * element, from + run.global * element, static_cast<size_t>(run.length * element));
    i += run.length;
  }
  const std::vector<int64_t> sliced = holding.sliced_shape();
  int64_t whole = 1;
  for (const int64_t size : sliced) whole *= size;
  return count == whole ? out.view(sliced) : out;
}

WrittenFile write_safetensors(const std::filesystem::path& path,
                              const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::vector<TensorPlan> plan;
  plan.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    plan.push_back({name, ops::dtype_of(tensor, kOp), tensor.sizes().vec()});
  }
  SafetensorsWriter writer(path, plan, metadata);
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
    writer.write({static_cast<const std::byte*>(host.const_data_ptr()), host.nbytes()});
  }
  return writer.finish();
}

}  // namespace axial::train
