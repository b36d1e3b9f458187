// SPDX-License-Identifier: Apache-2.0
// What ranks that hold the same slices of a parameter do together: sum gradients, and, with ZeRO, share
// optimizer states (stage 1), gradients (2) and values (3). The runner calls it by the actions of its plan,
// the trainer after an update.
//
// Rajbhandari et al., 2020. Every parameter is cut by itself into equal flat pieces, the last ones shorter;
// what travels for one action is one buffer. P elements, N ranks, per step of M micro-batches:
//   stage 0     all-reduce of P
//   stage 1     reduce-scatter of P, all-gather of P after the update
//   stage 2     M reduce-scatters of P, all-gather of P after the update
//   stage 3     M reduce-scatters of P, up to 2 M all-gathers of P
// Where the table keeps held parts of values in a store, each is brought to the device before its gather and
// let go behind it (Rajbhandari et al., 2021), and gradients of held parts are summed on the host.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "axial/parallel/communicator/communicator.h"
#include "axial/parallel/parameter_table/parameter_table.h"
#include "axial/parallel/replicas/away.h"

namespace axial::parallel {

/// Set what every parameter's rank keeps: after placement, before ParameterTable::materialize. Throws
/// ValueError for a stage outside of [0, 3]. What a rank shares with nobody stays whole, unless `alone_too`:
/// the stage is then that of all, so that their values may lie in a store.
void partition_parameters(ParameterTable& parameters, const Mesh& mesh, int64_t zero_stage,
                          bool alone_too = false);

/// See above. All ranks make the same calls in the same order. Holds buffers under way only.
class Replicas {
 public:
  /// Both must outlive it. The table is materialised.
  Replicas(ParameterTable& parameters, Communicator& ranks);
  Replicas(const Replicas&) = delete;
  Replicas(Replicas&&) = default;
  Replicas& operator=(const Replicas&) = delete;

  /// Start to bring held parts that lie in the table's store to the device, for the next gather; nothing for
  /// others. Without it the gather waits for them.
  void fetch(const std::vector<Parameter*>& wanted);
  /// Start to fetch the values of these (stage 3; nothing otherwise). Calls nest per parameter. Throws
  /// IoError for a part that could not be read.
  void gather(const std::vector<Parameter*>& wanted);
  /// Return when their values are whole; throws ValueError naming one that was not gathered.
  void wait(const std::vector<Parameter*>& wanted);
  /// Undo one gather; the last one frees the values.
  void release(const std::vector<Parameter*>& wanted);

  /// Start to sum these parameters' local_grad over the ranks into grad, and clear it; waits for the
  /// sums before. One without gradient here counts as zeros when it needs one. Gradients are complete after
  /// wait_reduced().
  void reduce(const std::vector<Parameter*>& summed);
  void wait_reduced();

  /// After the sums of a step: add up the gradients of parameters that several stages hold, in the order of
  /// the stages, so that all of them have the same. Sends twice the held part per further stage.
  void tie();
  /// After an update of held parts: bring them into everybody's values (stages 1 and 2).
  void publish();

 private:
  struct Transfer {
    Pending pending;
    std::vector<Parameter*> parameters;
    bool scattered = false;       // of a reduce: the result is this rank's pieces
    std::vector<at::Tensor> own;  // of a gather without other ranks: the values
  };
  using Lists = std::vector<std::vector<Parameter*>>;
  void connect_ties();
  Lists by_partition(const std::vector<Parameter*>& parameters, bool reduced) const;
  Transfer start_gather(std::vector<Parameter*> parameters);
  void finish_gather(Transfer& transfer);
  void finish_fetch_of(const Parameter* parameter);
  Transfer start_reduce(std::vector<Parameter*> parameters);
  void finish_reduce(Transfer& transfer);
  int64_t parts_of(const Parameter& parameter) const;
  int64_t chunk_of(const Parameter& parameter) const;

  ParameterTable& parameters_;
  Communicator& ranks_;
  std::map<Parameter*, int64_t> users_;
  detail::AwayParts away_;
  std::vector<Transfer> gathers_, reduces_;
};

}  // namespace axial::parallel
