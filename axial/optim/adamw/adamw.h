// SPDX-License-Identifier: Apache-2.0
// AdamW (Loshchilov and Hutter, 2019) over a ParameterTable, one fused pass (kernels/optimizer_step). States
// may lie outside of the device (Ren et al., 2021): the pass then runs on the host, where they are.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>

#include "axial/parallel/parameter_table/parameter_table.h"

namespace axial::optim {

struct AdamWOptions {
  double learning_rate = 3e-4;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;

  template <class V>
  void fields(V& v) {
    v("learning_rate", learning_rate, "peak learning rate; the schedule multiplies it");
    v("beta1", beta1, "decay of the first moment");
    v("beta2", beta2, "decay of the second moment");
    v("eps", eps, "added to the root of the second moment");
    v("weight_decay", weight_decay, "decoupled decay; biases and norms are not decayed");
  }
  void validate() const;  ///< throws ValueError
};

class StatePieces;

/// Keeps its moments as companions "exp_avg" and "exp_avg_sq" of each row (dtype of the master: fp32, fp64
/// for fp64) and updates "master" where there is one, else the value. Rows without a gradient are left alone.
/// Companions, and held parts of values, that the table offloads to the host are updated there; those in a
/// file come to the host piece by piece. The results are the same bits.
class AdamW {
 public:
  /// Allocate missing moments (zeros), where the table keeps companions; for a file also buffers on the host
  /// (state_pieces.h). The table must outlive it.
  AdamW(AdamWOptions options, parallel::ParameterTable& parameters);
  AdamW(const AdamW&) = delete;
  AdamW& operator=(const AdamW&) = delete;
  ~AdamW();
  /// One update with gradients multiplied by `grad_scale` (1 / loss scale x clip factor). On Meta nothing is
  /// computed, but the same buffers are there. Throws ValueError naming a row whose tensors do not fit,
  /// IoError.
  void step(double learning_rate, double grad_scale);
  const AdamWOptions& options() const { return options_; }
  /// {"step": updates done}; the moments are in the table.
  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);

 private:
  AdamWOptions options_;
  parallel::ParameterTable& parameters_;
  int64_t step_ = 0;
  std::unique_ptr<StatePieces> pieces_;  // of states in a file
};

}  // namespace axial::optim
