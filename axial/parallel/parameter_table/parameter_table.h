// SPDX-License-Identifier: Apache-2.0
// The one table of a model's parameters: logical name and shape, what this rank holds of it, its value,
// gradient and companions (master copy, moments). Checkpoints, optimizers, export and tests read it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "axial/core/rng/rng.h"
#include "axial/parallel/layout/holding.h"
#include "axial/parallel/mesh/mesh.h"
#include "axial/parallel/offload/offload_store.h"

namespace axial::parallel {

/// How a parameter starts.
struct Initializer {
  enum class Kind { kZeros, kOnes, kNormal };
  Kind kind = Kind::kZeros;
  double std = 0.0;  ///< of kNormal

  static Initializer zeros() { return {Kind::kZeros, 0.0}; }
  static Initializer ones() { return {Kind::kOnes, 0.0}; }
  static Initializer normal(double std) { return {Kind::kNormal, std}; }
};

/// What a model declares about a parameter.
struct ParameterSpec {
  std::string name;
  std::vector<int64_t> shape;  ///< logical, over all ranks
  Initializer init;
  bool weight_decay = true;  ///< false for biases and norms
  bool grows = false;        ///< more rows (dim 0) than a checkpoint has are new ones: a table of positions

  /// Whether saved values of this shape are values of it: those of its own shape, or fewer rows where it
  /// grows.
  bool takes(const std::vector<int64_t>& saved) const;
};

/// Rows of dim 0 of the held slices (before a flat interval) that `copies` ranks of the sharding axes hold
/// alike, as key/value heads fewer than ranks; norms count them once.
struct SharedRows {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t copies = 1;
};

/// One row of the table. Axes and holding are set between declare() and materialize(), by what places models.
struct Parameter {
  ParameterSpec spec;
  Holding holding;    ///< the part of the logical tensor held here
  Axes sharded_axes;  ///< ranks along them hold different slices; along all others the same
  Axes partial_axes;  ///< gradients are partial sums over them, besides those that split the batch
  std::vector<SharedRows> shared_rows;
  std::vector<int64_t> stage_ranks;  ///< places along `pipe` that hold it; none: no pipeline
  Axes replica_axes;                 ///< ranks along them hold the same slices and sum their gradients
  int64_t zero_stage = 0;            ///< above 0 the holding is this rank's flat interval of the slices
  at::Tensor value;                  ///< leaf that requires grad, compute dtype, all of the slices
  at::Tensor shard;       ///< ZeRO-3: the held part; the value has storage only between gather and release
  Offloaded away;         ///< the held part of ZeRO-3 in the table's store for values, in place of the shard
  at::Tensor local_grad;  ///< of this rank alone, all of the slices; undefined: none since the last reduce
  at::Tensor grad;        ///< of the held part, over ranks and micro-batches, fp32 (fp64 for fp64)
  at::Tensor grad_place;  ///< memory of the host that `grad` is summed in where the part is away
  std::map<std::string, at::Tensor> companions;  ///< "master", "exp_avg", ...: shaped as the held part
  std::map<std::string, Offloaded> offloaded;    ///< companions that lie in the table's store instead

  /// ZeRO-3: the value is there between gather and release alone.
  bool is_sharded() const { return zero_stage == 3; }
  /// The held part of the value, which updates and checkpoints go to: memory of the value, of the shard or of
  /// the host; of a part in a file a copy, which updates do not reach. Throws IoError.
  at::Tensor part() const;

  /// Names of companions, wherever they lie, in order.
  std::vector<std::string> companion_names() const;
  at::ScalarType companion_dtype(const std::string& name) const;
  /// A companion to be read: the tensor, or on the host a view or copy of what is offloaded. Throws IoError.
  at::Tensor companion(const std::string& name) const;
  /// Replace a companion where it lies, or add one to the tensors. Throws IoError.
  void set_companion(const std::string& name, const at::Tensor& values);
};

/// Owner of all parameters of a model. Rows have stable addresses and keep the order of declaration.
class ParameterTable {
 public:
  ParameterTable() = default;
  ParameterTable(const ParameterTable&) = delete;
  ParameterTable& operator=(const ParameterTable&) = delete;

  /// Add a row; throws ValueError when the name is taken.
  Parameter& declare(ParameterSpec spec);
  /// Give a row a second name (tied weights); values, gradients and companions are shared.
  void alias(const std::string& name, const std::string& of);

  /// Allocate every value and fill it: element i of parameter n is drawn from (seed, n, i) in fp64 and
  /// rounded once, so every layout starts equal. On Meta only shapes are made. 16-bit values get an fp32
  /// companion "master", unless nothing is trained.
  void materialize(at::Device device, at::ScalarType dtype, uint64_t seed, bool trains = true);

  /// Companions that are made from here on go to this store; null: they are tensors. Call before
  /// materialize().
  void offload_companions(std::shared_ptr<OffloadStore> store) { store_ = std::move(store); }
  OffloadStore* companion_store() const { return store_.get(); }
  /// Held parts of ZeRO-3 values lie in this store, and their gradients are summed in memory of the host;
  /// null: both are on the device. Call before materialize().
  void offload_values(std::shared_ptr<OffloadStore> store) { value_store_ = std::move(store); }
  OffloadStore* value_store() const { return value_store_.get(); }
  /// Make a companion of a row, in the store where there is one.
  void add_companion(Parameter& row, const std::string& name, at::Tensor values) const;

  /// Row by name or alias; throws ValueError with the nearest name.
  Parameter& at(std::string_view name);
  const Parameter& at(std::string_view name) const;
  bool contains(std::string_view name) const;
  /// Rows in order of declaration, aliases left out.
  const std::vector<std::unique_ptr<Parameter>>& rows() const { return rows_; }
  const std::map<std::string, std::string, std::less<>>& aliases() const { return aliases_; }

  /// Number of scalars, each tied weight once.
  int64_t num_elements() const;
  /// Drop all gradients.
  void clear_gradients();

 private:
  void keep_part(Parameter& row, at::Tensor part) const;

  std::vector<std::unique_ptr<Parameter>> rows_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string, std::less<>> aliases_;
  std::shared_ptr<OffloadStore> store_, value_store_;
};

}  // namespace axial::parallel
