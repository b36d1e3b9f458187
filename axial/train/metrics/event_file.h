// SPDX-License-Identifier: Apache-2.0
// TensorBoard event files with scalars, written directly: a TFRecord frame (length, masked CRC-32C,
// data, masked CRC-32C) around a protobuf Event. `tensorboard --logdir <run>` opens them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "axial/train/metrics/append_file.h"

namespace axial::train {

/// One event file of a run: events.out.tfevents.<seconds>.<host>.<process>.<n> in its folder.
class EventFile {
 public:
  /// Create the folder if missing and a new file in it. After a resume at step s pass
  /// `purge_from` = s + 1: TensorBoard then hides what older files hold from that step on.
  explicit EventFile(const std::filesystem::path& folder, int64_t purge_from = -1);

  /// One scalar; `wall_time_s` is in Unix seconds, negative means now. A slash in the tag makes a group.
  void add_scalar(std::string_view tag, int64_t step, double value, double wall_time_s = -1);
  /// Several scalars of one step in one record.
  void add_scalars(int64_t step, const std::vector<std::pair<std::string, double>>& scalars,
                   double wall_time_s = -1);
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  AppendFile file_;
};

/// CRC-32C (Castagnoli) of the bytes.
uint32_t crc32c(std::string_view bytes);
/// A TFRecord frame around `data`.
std::string tfrecord_frame(std::string_view data);
/// The protobuf bytes of an Event that holds scalars.
std::string scalar_event(int64_t step, const std::vector<std::pair<std::string, double>>& scalars,
                         double wall_time_s);

}  // namespace axial::train
