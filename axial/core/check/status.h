// SPDX-License-Identifier: Apache-2.0
// What a kernel returns: kernels never throw, so that C, CUDA and foreign callers can use them.
#pragma once

#include <string>
#include <utility>

#include "axial/core/check/check.h"

namespace axial {

/// Why a kernel did not run.
enum class StatusCode {
  kOk,           ///< it ran
  kInvalid,      ///< the arguments contradict each other
  kUnsupported,  ///< valid, but no implementation accepts it
  kDevice,       ///< the device reported an error
};

/// Outcome of a kernel call with the reason in words; cheap when ok (no allocation).
struct [[nodiscard]] Status {
  StatusCode code = StatusCode::kOk;
  std::string text;

  bool ok() const { return code == StatusCode::kOk; }
  static Status invalid(std::string why) { return {StatusCode::kInvalid, std::move(why)}; }
  static Status unsupported(std::string why) { return {StatusCode::kUnsupported, std::move(why)}; }
};

/// Turn a failed status into the matching exception; used by ops around every kernel call.
inline void throw_if_failed(const Status& status, std::string_view op) {
  if (status.ok()) return;
  if (status.code == StatusCode::kInvalid) fail<ValueError>(op, "{}", status.text);
  fail<UnsupportedError>(op, "{}", status.text);
}

}  // namespace axial
