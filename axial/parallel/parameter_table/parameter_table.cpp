// SPDX-License-Identifier: Apache-2.0
// Rows of the table and their initial values, drawn per global element so that every layout starts equal.
#include "axial/parallel/parameter_table/parameter_table.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <utility>

#include "axial/core/check/check.h"
#include "axial/core/text/text.h"
#include "axial/ops/common/memory_count.h"

namespace axial::parallel {

namespace {

constexpr const char* kOp = "parameter_table";

// A Box-Muller draw takes about 50 ns; 4096 of them are worth a thread.
constexpr int64_t kDrawGrain = 4096;

// Each element from its own counter, in fp64, rounded once to T.
template <class T>
void fill_normal(const ParameterSpec& spec, const Holding& holding, RngKey key, at::Tensor& out) {
  T* data = out.mutable_data_ptr<T>();
  at::parallel_for(0, out.numel(), kDrawGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const Holding::Run run = holding.run_at(spec.shape, begin);
      const int64_t count = std::min(run.length, end - begin);
      for (int64_t i = 0; i < count; ++i) {
        const auto global = static_cast<uint64_t>(run.global + i);
        data[begin + i] = static_cast<T>(spec.init.std * random_normal(key, global));
      }
      begin += count;
    }
  });
}

// On another device than the host the draws are made on the host and copied.
at::Tensor initial_values(const Parameter& parameter, const Holding& holding, at::Device device,
                          at::ScalarType dtype, uint64_t seed) {
  const std::vector<int64_t> shape = holding.held_shape();
  const at::TensorOptions options = at::TensorOptions(dtype).device(device);
  if (device.is_meta()) return at::empty(shape, options);
  if (parameter.spec.init.kind == Initializer::Kind::kZeros) return at::zeros(shape, options);
  if (parameter.spec.init.kind == Initializer::Kind::kOnes) return at::ones(shape, options);
  at::Tensor drawn = at::empty(shape, at::TensorOptions(dtype));
  const RngKey key = root_key(seed).child(parameter.spec.name);
  if (dtype == at::kDouble) {
    fill_normal<double>(parameter.spec, holding, key, drawn);
  } else {
    fill_normal<float>(parameter.spec, holding, key, drawn);
  }
  return drawn.to(device);
}

// A tensor of this shape that has no memory yet.
at::Tensor without_storage(const std::vector<int64_t>& shape, const at::TensorOptions& options) {
  at::Tensor out = at::empty({0}, options);
  out.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
  return out;
}

}  // namespace

bool ParameterSpec::takes(const std::vector<int64_t>& saved) const {
  if (saved == shape) return true;
  return grows && saved.size() == shape.size() && saved[0] <= shape[0] &&
         std::equal(saved.begin() + 1, saved.end(), shape.begin() + 1);
}

Parameter& ParameterTable::declare(ParameterSpec spec) {
  AXIAL_CHECK(!spec.name.empty(), kOp, "name of a parameter; expected one, got \"\"");
  AXIAL_CHECK(!contains(spec.name), kOp, "parameter '{}' is declared twice", spec.name);
  for (const int64_t size : spec.shape) {
    AXIAL_CHECK(size >= 0, kOp, "shape of '{}'; expected sizes of at least 0, got {}", spec.name, size);
  }
  AXIAL_CHECK(spec.init.std >= 0, kOp, "initial std of '{}'; expected at least 0, got {}", spec.name,
              spec.init.std);
  auto row = std::make_unique<Parameter>();
  row->holding = Holding::whole(spec.shape);
  row->spec = std::move(spec);
  index_.emplace(row->spec.name, rows_.size());
  rows_.push_back(std::move(row));
  return *rows_.back();
}

void ParameterTable::alias(const std::string& name, const std::string& of) {
  AXIAL_CHECK(!name.empty() && !contains(name), kOp, "alias '{}' of '{}'; expected a name that is free", name,
              of);
  const Parameter& row = at(of);
  index_.emplace(name, index_.find(of)->second);
  aliases_.emplace(name, row.spec.name);
}

at::Tensor Parameter::part() const {
  if (shard.defined()) return shard;
  if (away.defined()) return away.read();
  if (!holding.is_flat()) return value.variable_data();
  return value.variable_data().view({-1}).narrow(0, holding.flat_begin,
                                                 holding.flat_end - holding.flat_begin);
}

std::vector<std::string> Parameter::companion_names() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : companions) names.push_back(name);
  for (const auto& [name, tensor] : offloaded) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

at::ScalarType Parameter::companion_dtype(const std::string& name) const {
  const auto found = offloaded.find(name);
  return found == offloaded.end() ? companions.at(name).scalar_type() : found->second.dtype();
}

at::Tensor Parameter::companion(const std::string& name) const {
  const auto found = offloaded.find(name);
  return found == offloaded.end() ? companions.at(name) : found->second.read();
}

void Parameter::set_companion(const std::string& name, const at::Tensor& values) {
  const auto found = offloaded.find(name);
  if (found == offloaded.end()) {
    companions[name] = values;
  } else {
    found->second.write(values);
  }
}

void ParameterTable::materialize(at::Device device, at::ScalarType dtype, uint64_t seed, bool trains) {
  const bool narrow = dtype == at::kBFloat16 || dtype == at::kHalf;
  AXIAL_CHECK(narrow || dtype == at::kFloat || dtype == at::kDouble, kOp,
              "dtype of parameters; expected float64, float32, bfloat16 or float16, got {}",
              c10::toString(dtype));
  for (const auto& row : rows_) {
    row->holding.validate(row->spec.name, row->spec.shape);
    row->local_grad = row->grad = row->grad_place = row->shard = at::Tensor();
    row->away = {};
    row->companions.clear();
    row->offloaded.clear();
    const bool sharded = row->is_sharded();
    const Holding slices = row->holding.without_flat();
    at::Tensor values =
        initial_values(*row, sharded ? row->holding : slices, device, narrow ? at::kFloat : dtype, seed);
    at::Tensor cast = values.to(dtype);
    ops::set_memory_use(cast, ops::MemoryUse::kParameters);
    if (sharded) {
      row->value = without_storage(slices.sliced_shape(), cast.options());
      keep_part(*row, std::move(cast));
    } else {
      row->value = std::move(cast);
    }
    row->value.set_requires_grad(true);
    if (!narrow || !trains) continue;
    if (!sharded && row->holding.is_flat()) {
      values = values.view({-1}).slice(0, row->holding.flat_begin, row->holding.flat_end).clone();
    }
    ops::set_memory_use(values, ops::MemoryUse::kOptimizer);
    add_companion(*row, "master", std::move(values));
  }
  if (store_) store_->settle();
  if (value_store_) value_store_->settle();
}

// Of ZeRO-3.
void ParameterTable::keep_part(Parameter& row, at::Tensor part) const {
  if (!value_store_) {
    row.shard = std::move(part);
    return;
  }
  row.away = value_store_->put(part);
  if (part.numel() == 0) return;
  const at::ScalarType dtype = part.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  row.grad_place = value_store_->host_buffer(part.numel(), dtype).view(part.sizes());
}

void ParameterTable::add_companion(Parameter& row, const std::string& name, at::Tensor values) const {
  if (store_) {
    row.offloaded[name] = store_->put(values);
  } else {
    row.companions[name] = std::move(values);
  }
}

Parameter& ParameterTable::at(std::string_view name) {
  return const_cast<Parameter&>(std::as_const(*this).at(name));
}

const Parameter& ParameterTable::at(std::string_view name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    std::vector<std::string> names;
    for (const auto& [known, unused] : index_) names.push_back(known);
    fail(kOp, "unknown parameter '{}'{}", name, did_you_mean(name, names));
  }
  return *rows_[found->second];
}

bool ParameterTable::contains(std::string_view name) const { return index_.find(name) != index_.end(); }

int64_t ParameterTable::num_elements() const {
  int64_t total = 0;
  for (const auto& row : rows_) {
    int64_t n = 1;
    for (const int64_t size : row->spec.shape) n *= size;
    total += n;
  }
  return total;
}

void ParameterTable::clear_gradients() {
  for (const auto& row : rows_) row->local_grad = row->grad = at::Tensor();
}

}  // namespace axial::parallel
