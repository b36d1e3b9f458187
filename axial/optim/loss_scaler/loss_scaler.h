// SPDX-License-Identifier: Apache-2.0
// Dynamic loss scaling for fp16 (Micikevicius et al., 2018), as a state machine that checkpoints carry.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>

namespace axial::optim {

struct LossScalerOptions {
  double initial = 65536.0;
  double growth = 2.0;
  double backoff = 0.5;
  int64_t growth_interval = 2000;
  int64_t hysteresis = 1;
  double minimum = 1.0;
  double maximum = 16777216.0;

  template <class V>
  void fields(V& v) {
    v("initial", initial, "first scale");
    v("growth", growth, "factor after growth_interval steps without overflow");
    v("backoff", backoff, "factor after an overflow");
    v("growth_interval", growth_interval, "steps without overflow before the scale grows");
    v("hysteresis", hysteresis, "overflows in a row before the scale shrinks");
    v("minimum", minimum, "smallest scale");
    v("maximum", maximum, "largest scale");
  }
  void validate() const;  ///< throws ValueError
};

/// The scale of the loss and its rule of change. A scaler made with `dynamic` false stays at 1.
class LossScaler {
 public:
  LossScaler(const LossScalerOptions& options, bool dynamic);
  double scale() const { return scale_; }
  bool dynamic() const { return dynamic_; }
  /// Note whether the gradients of a step were finite; changes the scale for the next.
  void update(bool finite);
  nlohmann::json state() const;
  void load_state(const nlohmann::json& state);  ///< throws ValueError naming a missing key

 private:
  LossScalerOptions options_;
  bool dynamic_ = false;
  double scale_ = 1.0;
  int64_t good_steps_ = 0;
  int64_t overflows_ = 0;
};

}  // namespace axial::optim
