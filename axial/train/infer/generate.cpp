// SPDX-License-Identifier: Apache-2.0
// Decoding loop: the prompt once, then a token at a time over a shrinking set of unfinished sequences.
#include "axial/train/infer/generate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "axial/core/check/check.h"
#include "axial/core/rng/rng.h"
#include "axial/parallel/collectives/exchange.h"
#include "axial/parallel/step/runner.h"
#include "axial/train/infer/windows.h"

namespace axial::train {
namespace {

constexpr std::string_view kOp = "generate";

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Which ids may not be drawn, before and after a sequence may stop.
std::vector<bool> forbidden_ids(int64_t vocabulary, const GenerateIds& ids, bool may_stop) {
  std::vector<bool> out(static_cast<size_t>(vocabulary), false);
  const auto mark = [&](const std::vector<int32_t>& list, bool value) {
    for (const int32_t id : list) {
      AXIAL_CHECK(id >= 0 && id < vocabulary, kOp, "token id {}; expected one below the {} of the model", id,
                  vocabulary);
      out[static_cast<size_t>(id)] = value;
    }
  };
  mark(ids.special, true);
  mark(ids.end, !may_stop);
  if (!may_stop) mark(ids.stop, true);
  return out;
}

// Some sequences that are decoded together. `in_step`: with those of the other ranks along data, whose passes
// fetch weights together; who has no sequence left, or had none, goes on with a row that nobody reads.
class Group {
 public:
  Group(parallel::StepRunner& runner, const GenerateIds& ids, const GenerateOptions& options, int64_t first,
        int64_t count, bool in_step)
      : runner_(runner), ids_(ids), options_(options), in_step_(in_step) {
    for (int64_t i = 0; i < count; ++i) {
      sequences_.push_back({first + i, {}, 0.0, Generated::Stop::kLength});
      rows_.push_back(i);
    }
    state_.lengths = at::zeros({std::max<int64_t>(count, 1)}, at::TensorOptions(at::kLong));
    state_.capacity = static_cast<int64_t>(ids.prompt.size()) + options.max_tokens;
  }

  const std::vector<Generated>& run() {
    at::Tensor tokens = at::empty({state_.lengths.size(0), static_cast<int64_t>(ids_.prompt.size())},
                                  at::TensorOptions(at::kLong));
    for (size_t i = 0; i < ids_.prompt.size(); ++i) {
      tokens.select(1, static_cast<int64_t>(i)).fill_(static_cast<int64_t>(ids_.prompt[i]));
    }
    for (int64_t made = 0; made < options_.max_tokens; ++made) {
      const at::Tensor logits = advance(tokens);
      if (!rows_.empty()) draw(logits, made);
      if (!goes_on()) break;
      tokens = at::full({state_.lengths.size(0), 1}, static_cast<int64_t>(ids_.prompt.back()), at::kLong);
      for (size_t r = 0; r < rows_.size(); ++r) {
        tokens.mutable_data_ptr<int64_t>()[r] = sequences_[static_cast<size_t>(rows_[r])].ids.back();
      }
    }
    return sequences_;
  }

 private:
  // Somebody has a sequence to go on with: here, or on the ranks that are in step.
  bool goes_on() {
    if (!in_step_) return !rows_.empty();
    parallel::Communicator& ranks = runner_.communicator();
    const parallel::Communicator::ControlCalls control(ranks);
    const at::Tensor left = at::full({1}, rows_.empty() ? 0 : 1, at::kLong);
    return ranks.all_reduce(left, {"data"}, parallel::ReduceOp::kMax).item<int64_t>() > 0;
  }

  // A data batch in form: nothing is predicted, and each row is a segment of its own.
  parallel::NamedTensors batch_of(const at::Tensor& tokens) const {
    const int64_t rows = tokens.size(0);
    const int64_t n = tokens.size(1);
    const auto options = at::TensorOptions(at::kLong);
    return {{"tokens", tokens},
            {"labels", at::full({rows, n}, -100, options)},
            {"positions", state_.lengths.unsqueeze(1) + at::arange(n, options).unsqueeze(0)},
            {"segments", at::arange(0, rows * n + 1, n, options)},
            {"sample_ids", at::zeros({rows}, options)},
            {"row_positions", at::arange(n, options)},
            {"record_starts", at::zeros({rows, n}, options)},
            {"later_records", at::empty({0}, options)}};
  }

  // tokens [B, N] -> logits after the last one, [B, V] float.
  at::Tensor advance(const at::Tensor& tokens) {
    const int64_t n = tokens.size(1);
    parallel::StepContext context;
    context.decode = &state_;
    const auto out = runner_.infer(batch_of(tokens), context, {"logits"});
    state_.lengths = state_.lengths + n;
    return out.at("logits").select(1, n - 1).to(at::kFloat).contiguous();
  }

  // Per row a token and its log-probability.
  std::vector<Sampled> sample(const at::Tensor& logits, int64_t made) {
    const int64_t vocabulary = logits.size(1);
    const std::vector<bool> forbidden = forbidden_ids(vocabulary, ids_, made >= options_.min_tokens);
    const RngKey key = root_key(static_cast<uint64_t>(options_.seed)).child("generate");
    std::vector<Sampled> out;
    for (size_t r = 0; r < rows_.size(); ++r) {
      const Generated& sequence = sequences_[static_cast<size_t>(rows_[r])];
      const double uniform =
          random_uniform(key.child(static_cast<uint64_t>(sequence.index)), static_cast<uint64_t>(made));
      const float* row = logits.const_data_ptr<float>() + static_cast<int64_t>(r) * vocabulary;
      out.push_back(
          sample_token({row, static_cast<size_t>(vocabulary)}, forbidden, options_.sampling, uniform));
    }
    return as_first_rank(std::move(out));
  }

  // Logits may differ in their last bits on unlike processors; all ranks that decode together go on alike.
  std::vector<Sampled> as_first_rank(std::vector<Sampled> own) {
    parallel::Communicator& ranks = runner_.communicator();
    parallel::Axes axes = parallel::all_axes(ranks.mesh());
    std::erase(axes, "data");
    if (ranks.mesh().group_size(axes) == 1) return own;
    at::Tensor drawn = at::empty({static_cast<int64_t>(own.size()), 2}, at::kDouble);
    auto* data = drawn.mutable_data_ptr<double>();
    for (size_t r = 0; r < own.size(); ++r) {
      data[2 * r] = own[r].id;
      data[2 * r + 1] = own[r].log_probability;
    }
    drawn = ranks.broadcast(drawn, 0, axes);
    const auto* first = drawn.const_data_ptr<double>();
    for (size_t r = 0; r < own.size(); ++r) own[r] = {static_cast<int32_t>(first[2 * r]), first[2 * r + 1]};
    return own;
  }

  void draw(const at::Tensor& logits, int64_t made) {
    const std::vector<Sampled> drawn = sample(logits, made);
    std::vector<int64_t> unfinished;
    std::vector<int64_t> kept_rows;
    for (size_t r = 0; r < rows_.size(); ++r) {
      Generated& sequence = sequences_[static_cast<size_t>(rows_[r])];
      const Sampled& sampled = drawn[r];
      sequence.log_likelihood += sampled.log_probability;
      if (contains(ids_.end, sampled.id)) {
        sequence.stop = Generated::Stop::kEnd;
        continue;
      }
      sequence.ids.push_back(sampled.id);
      if (contains(ids_.stop, sampled.id)) {
        sequence.stop = Generated::Stop::kStopToken;
        continue;
      }
      unfinished.push_back(rows_[r]);
      kept_rows.push_back(static_cast<int64_t>(r));
    }
    if (unfinished.empty() && in_step_) kept_rows = {0};
    if (unfinished.size() < rows_.size()) keep(kept_rows);
    rows_ = std::move(unfinished);
  }

  // Finished sequences leave the caches (every cached tensor has the batch as its first dim).
  void keep(const std::vector<int64_t>& kept_rows) {
    if (kept_rows.empty()) return;
    const at::Tensor index = at::tensor(kept_rows, at::TensorOptions(at::kLong));
    state_.lengths = state_.lengths.index_select(0, index);
    for (auto& [name, tensors] : state_.blocks) {
      for (auto& [key, tensor] : tensors) tensor = tensor.index_select(0, index);
    }
  }

  parallel::StepRunner& runner_;
  const GenerateIds& ids_;
  const GenerateOptions& options_;
  bool in_step_;
  std::vector<Generated> sequences_;
  std::vector<int64_t> rows_;  // batch row -> sequence
  parallel::DecodeState state_;
};

// Between ranks: numbers as they are, to the last bit.
std::string to_text(const std::vector<Generated>& sequences) {
  nlohmann::json list = nlohmann::json::array();
  for (const Generated& s : sequences) {
    list.push_back({s.index, s.ids, s.log_likelihood, static_cast<int>(s.stop)});
  }
  return list.dump();
}

std::vector<Generated> from_text(const std::string& text) {
  std::vector<Generated> sequences;
  const nlohmann::json list = nlohmann::json::parse(text);
  for (const nlohmann::json& s : list) {
    sequences.push_back({s.at(0).get<int64_t>(), s.at(1).get<std::vector<int32_t>>(), s.at(2).get<double>(),
                         static_cast<Generated::Stop>(s.at(3).get<int>())});
  }
  return sequences;
}

}  // namespace

void GenerateOptions::validate() const {
  AXIAL_CHECK(count >= 1, kOp, "count; expected at least 1, got {}", count);
  AXIAL_CHECK(max_tokens >= 1, kOp, "max_tokens; expected at least 1, got {}", max_tokens);
  AXIAL_CHECK(min_tokens >= 0 && min_tokens <= max_tokens, kOp,
              "min_tokens; expected 0 to max_tokens ({}), got {}", max_tokens, min_tokens);
  AXIAL_CHECK(batch >= 1, kOp, "batch; expected at least 1, got {}", batch);
  sampling.validate();
}

void generate(const models::Model& model, const GenerateIds& ids, const GenerateOptions& options,
              const std::function<void(const Generated&)>& on_sequence, parallel::Communicator* ranks) {
  options.validate();
  AXIAL_CHECK(!ids.prompt.empty(), kOp, "the prompt is empty; expected at least a begin token");
  const int64_t length = static_cast<int64_t>(ids.prompt.size()) + options.max_tokens;
  const int64_t longest = max_positions_of(model, length);
  AXIAL_CHECK(length <= longest, kOp, "prompt of {} and max_tokens {} exceed the model's {} positions",
              ids.prompt.size(), options.max_tokens, longest);
  parallel::StepRunner runner = model.runner_with("logits", ranks);
  const parallel::Mesh& mesh = runner.communicator().mesh();
  const int64_t sharers = mesh.group_size({"data"}), place = mesh.group_rank({"data"}, mesh.rank());
  const auto& rows = model.parameters->rows();
  const bool in_step = sharers > 1 && std::any_of(rows.begin(), rows.end(),
                                                  [](const auto& row) { return row->zero_stage == 3; });
  for (int64_t first = 0, share = 0; first < options.count; first += sharers * share) {
    share = std::min(options.batch, (options.count - first + sharers - 1) / sharers);
    const int64_t own = first + place * share;
    std::vector<Generated> sequences;
    const int64_t count = std::clamp<int64_t>(options.count - own, 0, share);
    if (count > 0 || in_step) sequences = Group(runner, ids, options, own, count, in_step).run();
    for (const std::string& text : parallel::exchange(to_text(sequences), ranks, {"data"})) {
      for (const Generated& sequence : from_text(text)) on_sequence(sequence);
    }
  }
}

}  // namespace axial::train
