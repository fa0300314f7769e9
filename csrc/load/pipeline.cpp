#include "load/pipeline.h"

#include <algorithm>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "base/size.h"
#include "load/run.h"
#include "load/schedule.h"

namespace sllm {
namespace {

void validate(const LoadPlan& plan, const LoadOptions& options) {
  validate(plan);
  if (options.extent_bytes == 0 || options.extent_bytes % kSpanBytes != 0 ||
      options.extent_bytes > (1 << 30)) {
    throw Error(ErrorCode::kInvalid, "extents of " + std::to_string(options.extent_bytes) +
                                         " bytes are not whole spans of 1 MiB up to 1 GiB");
  }
  if (options.depth == 0 || options.depth > 1024 || options.check_threads > 256) {
    throw Error(ErrorCode::kInvalid, "depth " + std::to_string(options.depth) + " or check threads " +
                                         std::to_string(options.check_threads) + " is out of range");
  }
}

void validate(const LoadPlan& plan, std::span<const Target> targets) {
  if (targets.size() != plan.target_bytes.size()) {
    throw Error(ErrorCode::kInvalid, std::to_string(targets.size()) + " targets for a plan of " +
                                         std::to_string(plan.target_bytes.size()));
  }
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (targets[i].bytes >= plan.target_bytes[i]) continue;
    throw Error(ErrorCode::kInvalid, "a target of " + std::to_string(targets[i].bytes) + " bytes for " +
                                         std::to_string(plan.target_bytes[i]));
  }
}

// Of a device's copies nobody knows which part of them is done.
void refuse_to_follow_devices(std::span<const Target> targets, const LoadOptions& options) {
  const bool are_host =
      std::all_of(targets.begin(), targets.end(), [](const Target& target) { return target.is_host(); });
  if (!options.on_landed || are_host) return;
  throw Error(ErrorCode::kInvalid, "what lands on a device cannot be followed");
}

// A private mapping in its place would take shared memory from those who share it.
void validate(std::span<const Target> targets, const LoadOptions& options) {
  const bool may_map = options.cache == CacheUse::kMap || options.cache == CacheUse::kMapCached;
  const bool is_shared = std::any_of(targets.begin(), targets.end(),
                                     [](const Target& target) { return target.backing == Backing::kShared; });
  if (may_map && is_shared) {
    throw Error(ErrorCode::kInvalid, "cannot map a file in the place of shared memory");
  }
}

// As large as asked for, but small enough that a small load keeps the drive as deep as a large one, and its
// bytes are checked and copied while others are read.
LoadOptions fitted(const LoadOptions& options, const LoadPlan& plan) {
  LoadOptions fit = options;
  if (options.depth == 1) return fit;
  std::uint64_t bytes = 0;
  for (const Extent& extent : plan.extents) bytes += extent.bytes;
  const std::uint64_t share = align_down(bytes / (2 * options.depth), kSpanBytes);
  fit.extent_bytes = std::clamp(share, kSpanBytes, options.extent_bytes);
  return fit;
}

// For what is faulted in ahead: the fresh target that reads may land in.
std::optional<Populator> make_populator(std::span<const Target> targets, const LoadOptions& options) {
  const Target* fresh = nullptr;
  for (const Target& target : targets) {
    if (!target.is_host() || !target.is_exclusive || target.bytes == 0) continue;
    if (fresh != nullptr) throw Error(ErrorCode::kInvalid, "two exclusive targets in host memory");
    fresh = &target;
  }
  if (fresh == nullptr || !options.is_fresh) return std::nullopt;
  return std::optional<Populator>(std::in_place, std::span(fresh->at(0), fresh->bytes), fresh->backing);
}

CheckResult run(const Checker::Work& work, const LoadOptions& options, const Interrupt& interrupt) {
  const Stopwatch watch;
  const double cpu_before_s = process_cpu_s();
  CheckResult result;
  {
    Run run(work, options, interrupt);
    run.read_all();
    run.finish();
    result = {run.report(), run.bad_spans()};
  }
  result.report.total_s = watch.elapsed_s();
  result.report.cpu_s = process_cpu_s() - cpu_before_s;
  return result;
}

}  // namespace

LoadReport load(const LoadPlan& plan, std::span<const Target> targets, const LoadOptions& options,
                const Interrupt& interrupt) {
  validate(plan, options);
  validate(plan, targets);
  validate(targets, options);
  refuse_to_follow_devices(targets, options);
  if (plan.files.empty()) return {};
  const LoadOptions fit = fitted(options, plan);
  const Schedule schedule = make_schedule(plan, targets, fit.extent_bytes);
  std::optional<Populator> populator = make_populator(targets, options);
  const Checker::Work work{plan, schedule, targets, OnCorrupt::kFail, populator ? &*populator : nullptr, {}};
  return run(work, fit, interrupt).report;
}

CheckResult check(const LoadPlan& plan, const LoadOptions& options, const Interrupt& interrupt) {
  validate(plan, options);
  if (plan.files.empty()) return {};
  const Schedule schedule = make_check_schedule(plan, options.extent_bytes);
  return run({plan, schedule, {}, OnCorrupt::kCollect, nullptr, {}}, options, interrupt);
}

}  // namespace sllm
