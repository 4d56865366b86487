#include "train/trainer.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/version.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "checkpoint/run_checkpoint.h"
#include "core/error.h"
#include "core/log.h"
#include "data/loader.h"
#include "data/prepare.h"
#include "dist/group.h"
#include "models/language_model.h"
#include "ops/op_table.h"
#include "optim/adamw.h"
#include "optim/schedule.h"
#include "train/device.h"
#include "train/progress.h"
#include "train/run_folder.h"
#include "train/signals.h"
#include "train/validation.h"

namespace aspis::train {
namespace {

using at::Tensor;
using config::Json;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Steps that are measured before `max_seconds` fits their number; the first ones are slower than
// the rest.
constexpr int64_t kFirstMeasured = 3, kLastMeasured = 10;

checkpoint::NamedTensors named_tensors(const models::LanguageModel& model) {
  checkpoint::NamedTensors out;
  for (const nn::NamedParameter& parameter : model.parameters()) {
    out[parameter.name] = parameter.tensor.detach();
  }
  return out;
}

std::vector<optim::Parameter> optimizer_parameters(const models::LanguageModel& model) {
  std::vector<optim::Parameter> out;
  for (const nn::NamedParameter& parameter : model.parameters()) {
    out.push_back(
        {parameter.name, parameter.tensor, parameter.hints.decay, parameter.hints.lr_scale});
  }
  return out;
}

// What one optimiser step did.
struct StepResult {
  double loss = 0;       // mean over the targets of all micro-batches and ranks, nats
  double grad_norm = 0;  // before clipping
  double lr = 0;
  int64_t tokens = 0;       // inputs that are no padding, all ranks
  double data_seconds = 0;  // waiting for batches
};

class Trainer {
 public:
  Trainer(const RunConfig& run, const RunOptions& options);
  void run();

 private:
  void print_start() const;
  void resume();
  StepResult step();
  void sum_over_ranks();
  void fit_steps();
  void save();
  void log(const StepResult& result, double step_seconds);
  void validate(bool last);
  void finish();

  const RunConfig& run_;
  const std::string resolved_;
  const std::string tokenizer_;  // of the first training shard
  dist::Group group_;
  DeviceChoice device_;
  models::LanguageModel model_;
  data::Loader loader_;
  std::optional<Validation> validation_;
  optim::AdamW optimizer_;
  const std::filesystem::path path_;
  std::optional<RunFolder> folder_;  // the first rank's
  ProgressLine progress_;

  int64_t step_ = 0;     // finished steps
  int64_t total_steps_;  // fitted to max_seconds
  bool steps_fitted_;
  int64_t tokens_ = 0;        // seen since the start
  double train_seconds_ = 0;  // in steps, without validation and saving
  double measured_seconds_ = 0;
  std::optional<double> bits_per_byte_;  // of the last validation
};

// A shard made by another program does not say; byte shards are what this one makes.
std::string tokenizer_of(const RunConfig& run) {
  if (run.data.train.empty()) return "";
  const auto info = data::read_shard_info(run.data.train.front().path);
  return info ? info->tokenizer : "";
}

DeviceChoice device_of(const RunConfig& run) {
  const models::LanguageModel on_paper(run.model, at::TensorOptions().device("meta"));
  return choose_device(run.train.device, on_paper.ops_used(),
                       run.model.backend() == nn::OpsBackend::kReference);
}

at::TensorOptions options_on(const DeviceChoice& choice) {
  return at::TensorOptions().dtype(at::kFloat).device(choice.device);
}

Trainer::Trainer(const RunConfig& run, const RunOptions& options)
    : run_(run),
      resolved_(resolved_text(run)),
      tokenizer_(tokenizer_of(run)),
      group_(dist::Group::from_environment()),
      device_(device_of(run)),
      model_(run.model, options_on(device_)),
      loader_(run.data, {.rows = run.train.batch,
                         .seed = static_cast<uint64_t>(run.train.seed_data),
                         .vocab_size = run.model.vocab_size,
                         .rank = group_.rank(),
                         .world = group_.size(),
                         .samples = run.train.steps * run.train.accumulation * run.train.batch *
                                    group_.size()}),
      optimizer_(run.optim, optimizer_parameters(model_)),
      path_(options.folder),
      total_steps_(run.train.steps),
      steps_fitted_(!run.train.max_seconds) {
  optim::check_schedule(run.schedule, total_steps_);
  if (!run.data.validation.empty()) validation_.emplace(run);
  // Last of what can be refused: nothing is written before everything has been opened.
  if (group_.is_first()) folder_.emplace(path_, resolved_, options.resume);
  model_.initialise(static_cast<uint64_t>(run.train.seed_init));
  if (options.resume) {
    resume();
  } else if (folder_) {
    folder_->write_description(resolved_, {{"aspis", ops::ops_library_version()},
                                           {"torch", TORCH_VERSION},
                                           {"device", device_.reason},
                                           {"threads", at::get_num_threads()},
                                           {"ranks", group_.size()},
                                           {"parameters", model_.parameter_count()}});
  }
}

void Trainer::print_start() const {
  if (!group_.is_first()) return;
  log_info("run        " + path_.string() + " (config " + text_hash(resolved_) + ")");
  log_info("device     " + device_.reason);
  log_info("model      " + std::to_string(model_.parameter_count()) + " parameters, pattern " +
           run_.model.letters());
  log_info("data       " + loader_.describe());
  log_info(
      "step       " + std::to_string(run_.train.batch) + " rows x " +
      std::to_string(run_.train.accumulation) + " micro-batches x " +
      std::to_string(group_.size()) + " ranks x " + std::to_string(run_.data.seq_len) +
      " tokens; " + std::to_string(total_steps_) + " steps" +
      (steps_fitted_ ? "" : ", or as many as fit into " + clock_text(*run_.train.max_seconds)));
  log_info("optimizer  AdamW\n" + optimizer_.group_table());
}

void Trainer::resume() {
  const auto found = checkpoint::latest_checkpoint(path_);
  for (const std::string& text : found.skipped) log_warning("checkpoint passed over: " + text);
  if (!found.folder) {
    log_info("no checkpoint in " + path_.string() + ": starting from the first step");
    if (folder_) folder_->rewind_metrics(0);
    return;
  }
  checkpoint::load_model_tensors(*found.folder, named_tensors(model_));
  optimizer_.load_state(checkpoint::read_optimizer_tensors(*found.folder));
  const Json state = checkpoint::read_state(*found.folder);
  step_ = state.at("step").get<int64_t>();
  total_steps_ = state.at("total_steps").get<int64_t>();
  steps_fitted_ = state.at("steps_fitted").get<bool>();
  tokens_ = state.at("tokens").get<int64_t>();
  train_seconds_ = state.at("train_seconds").get<double>();
  measured_seconds_ = state.at("measured_seconds").get<double>();
  loader_.restore(state.at("data"));
  if (folder_) folder_->rewind_metrics(step_);
  log_info("resumed after step " + std::to_string(step_) + " from " + found.folder->string());
}

void Trainer::save() {
  progress_.finish();
  if (!group_.is_first()) return;
  const Json state = {{"step", step_},
                      {"total_steps", total_steps_},
                      {"steps_fitted", steps_fitted_},
                      {"tokens", tokens_},
                      {"train_seconds", train_seconds_},
                      {"measured_seconds", measured_seconds_},
                      {"tokenizer", tokenizer_},
                      {"data", loader_.position()}};
  checkpoint::save_checkpoint(path_, step_, named_tensors(model_), optimizer_.state(), state,
                              Json::parse(resolved_), run_.checkpoint.keep);
}

// Adds the gradients of all ranks, in one message.
void Trainer::sum_over_ranks() {
  if (group_.size() == 1) return;
  std::vector<Tensor> grads, flat;
  for (const nn::NamedParameter& parameter : model_.parameters()) {
    grads.push_back(parameter.tensor.grad());
    flat.push_back(grads.back().reshape(-1).cpu());
  }
  const Tensor all = at::cat(flat);
  group_.all_reduce_sum(all);
  int64_t offset = 0;
  for (Tensor& grad : grads) {
    grad.copy_(all.narrow(0, offset, grad.numel()).view(grad.sizes()));
    offset += grad.numel();
  }
}

StepResult Trainer::step() {
  StepResult result;
  const auto start = Clock::now();
  std::vector<data::Batch> batches;
  for (int64_t i = 0; i < run_.train.accumulation; ++i) batches.push_back(loader_.next());
  result.data_seconds = seconds_since(start);

  // All targets of the step are counted first: each micro-batch then divides by the same number.
  Tensor counts = at::zeros({2}, at::kDouble);  // targets, inputs
  for (const data::Batch& batch : batches) {
    counts[0] += batch.targets.ne(data::kNoTarget).sum();
    counts[1] += static_cast<double>(batch.real_tokens);
  }
  group_.all_reduce_sum(counts);
  const double targets = std::max(1.0, counts[0].item<double>());
  result.tokens = static_cast<int64_t>(counts[1].item<double>());

  Tensor loss_sum = at::zeros({1}, at::kDouble);
  for (const data::Batch& batch : batches) {
    nn::Segments segments;
    if (batch.seq_idx) segments.seq_idx = batch.seq_idx->to(device_.device);
    const auto [loss, valid] =
        model_.loss(batch.tokens.to(device_.device), batch.targets.to(device_.device), segments);
    torch::autograd::backward({loss / targets}, {});
    loss_sum += loss.detach().to(at::kCPU, at::kDouble);
  }
  group_.all_reduce_sum(loss_sum);
  sum_over_ranks();
  result.loss = loss_sum.item<double>() / targets;
  result.grad_norm = optimizer_.clip_gradients(run_.optim.clip_norm);
  result.lr = run_.optim.lr * optim::lr_factor(run_.schedule, step_, total_steps_);
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
    throw NonFiniteError("step " + std::to_string(step_ + 1) + ": loss " +
                             std::to_string(result.loss) + ", gradient norm " +
                             std::to_string(result.grad_norm) + "; the update was not made",
                         "lower optim.lr, or resume from the last checkpoint with --resume");
  }
  optimizer_.step(result.lr);
  optimizer_.zero_gradients();
  return result;
}

void Trainer::fit_steps() {
  if (steps_fitted_ || step_ < kLastMeasured) return;
  steps_fitted_ = true;
  const double per_step = measured_seconds_ / double(kLastMeasured - kFirstMeasured + 1);
  const double left = *run_.train.max_seconds - train_seconds_;
  const auto fitting = step_ + static_cast<int64_t>(std::max(1.0, 0.97 * left / per_step));
  // A warm-up that is never used up would be no training: on a slow machine the time is exceeded
  // instead.
  const int64_t least = 2 * run_.schedule.warmup_steps;
  Tensor total = at::full({1}, std::min(run_.train.steps, std::max(fitting, least)), at::kLong);
  group_.broadcast(total);
  total_steps_ = total.item<int64_t>();
  progress_.finish();
  char text[200];
  std::snprintf(
      text, sizeof(text),
      fitting < least
          ? "steps      %lld of %.0f ms each, twice the warm-up, although %s is too short for "
            "them (asked for: %lld)"
          : "steps      %lld of %.0f ms each fit into %s (asked for: %lld)",
      static_cast<long long>(total_steps_), 1e3 * per_step,
      clock_text(*run_.train.max_seconds).c_str(), static_cast<long long>(run_.train.steps));
  if (group_.is_first()) log_info(text);
  optim::check_schedule(run_.schedule, total_steps_);
}

void Trainer::log(const StepResult& result, double step_seconds) {
  if (!group_.is_first()) return;
  const double rate = static_cast<double>(result.tokens) / step_seconds;
  const bool due = step_ % run_.log.every == 0 || step_ == 1 || step_ == total_steps_;
  progress_.show({.step = step_,
                  .total_steps = total_steps_,
                  .loss = result.loss,
                  .lr = result.lr,
                  .grad_norm = result.grad_norm,
                  .tokens_per_s = rate,
                  .seconds_left = double(total_steps_ - step_) * train_seconds_ / double(step_)},
                 due);
  if (!due) return;
  folder_->append_metrics({{"schema", 1},
                           {"kind", "train"},
                           {"step", step_},
                           {"tokens", tokens_},
                           {"loss", result.loss},
                           {"grad_norm", result.grad_norm},
                           {"lr", result.lr},
                           {"tokens_per_s", rate},
                           {"step_ms", 1e3 * step_seconds},
                           {"data_wait_ms", 1e3 * result.data_seconds},
                           {"train_seconds", train_seconds_}});
}

void Trainer::validate(bool last) {
  if (!validation_ || !group_.is_first()) return;
  const bool due = last || (run_.eval.every > 0 && step_ % run_.eval.every == 0);
  if (!due) return;
  progress_.finish();
  const double bpb = validation_->bits_per_byte(model_, device_.device);
  bits_per_byte_ = bpb;
  char text[80];
  std::snprintf(text, sizeof(text), "validation %.4f bits per byte after step %lld", bpb,
                static_cast<long long>(step_));
  log_info(text);
  folder_->append_metrics(
      {{"schema", 1}, {"kind", "validation"}, {"step", step_}, {"bits_per_byte", bpb}});
}

void Trainer::finish() {
  progress_.finish();
  if (!group_.is_first()) return;
  Json summary = {{"params", model_.parameter_count()},
                  {"tokens", tokens_},
                  {"steps", step_},
                  {"train_seconds", train_seconds_},
                  {"device", device_.reason}};
  if (validation_) {
    // A run that had ended already was not validated again by the loop.
    summary["val_bpb"] =
        bits_per_byte_ ? *bits_per_byte_ : validation_->bits_per_byte(model_, device_.device);
    for (const auto& [name, value] : validation_->markov()) summary[name] = value;
  }
  folder_->write_summary(summary);
}

void Trainer::run() {
  print_start();
  SignalWatch signals;
  if (step_ == 0) validate(false);
  while (step_ < total_steps_) {
    const auto start = Clock::now();
    const StepResult result = step();
    const double elapsed = seconds_since(start);
    ++step_;
    tokens_ += result.tokens;
    train_seconds_ += elapsed;
    if (step_ >= kFirstMeasured && step_ <= kLastMeasured) measured_seconds_ += elapsed;
    fit_steps();
    log(result, elapsed);
    const bool last = step_ >= total_steps_;
    validate(last);
    const int signal = signals.received();
    if (last || signal != 0 || (run_.checkpoint.every > 0 && step_ % run_.checkpoint.every == 0)) {
      save();
    }
    if (signal != 0 && !last) {
      throw StoppedError("stopped by signal " + std::to_string(signal) + " after step " +
                             std::to_string(step_) + "; the state is saved in " + path_.string(),
                         "go on with --resume");
    }
  }
  finish();
}

}  // namespace

void train(const RunConfig& run, const RunOptions& options) {
  Trainer(run, options).run();
}

}  // namespace aspis::train
