#include "load/pipeline.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/size.h"
#include "io/extent_reader.h"
#include "io/file.h"
#include "load/checker.h"
#include "load/schedule.h"
#include "load/staging.h"
#include "memory/prefaulter.h"

namespace sllm {
namespace {

// How long the reading thread waits before it looks whether it should go on.
constexpr std::chrono::milliseconds kPatience{50};

[[noreturn]] void refuse_changed(const File& file) {
  throw Error(ErrorCode::kCorrupt, file.path() + " changed while it was being loaded; load it again");
}

std::vector<File> open_files(const LoadPlan& plan, FileAccess access) {
  std::vector<File> files;
  files.reserve(plan.files.size());
  for (const PlannedFile& planned : plan.files) {
    files.push_back(File::open(planned.path, access));
    if (files.back().identity() != planned.identity) refuse_changed(files.back());
  }
  return files;
}

void check_unchanged(const LoadPlan& plan, const std::vector<File>& files) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    // The path too: a file that was replaced still reads as it was, but its neighbours may not.
    const FileIdentity& planned = plan.files[i].identity;
    if (files[i].identity() != planned || files[i].identity_of_path() != planned) refuse_changed(files[i]);
  }
}

class Run {
 public:
  Run(const Checker::Work& work, const LoadOptions& options, const Interrupt& interrupt)
      : plan_(work.plan),
        schedule_(work.schedule),
        destination_(work.destination),
        interrupt_(interrupt),
        files_(open_files(work.plan, options.access)),
        queue_(options.queue(options.depth, files_.empty() ? -1 : files_[0].fd())),
        staging_(queue_->depth() + 1, align_up(options.extent_bytes, kBlockBytes)),
        checker_(work, options.check_threads),
        reading_(schedule_.reads.size()),
        reader_(*queue_) {
    if (options.is_fresh && destination_ != nullptr)
      prefaulter_.emplace(std::span(destination_, plan_.destination_bytes));
  }

  void read_all() {
    std::size_t next = 0;
    while (next < schedule_.reads.size() || reader_.in_flight() > 0) {
      while (next < schedule_.reads.size() && reader_.has_room() && start(next)) ++next;
      if (reader_.in_flight() > 0) {
        collect();
      } else {
        const Stopwatch watch;
        staging_.wait_for_slot(kPatience);
        report_.check_wait_s += watch.elapsed_s();
      }
      checker_.rethrow();
      interrupt_();
    }
  }

  void finish() {
    const Stopwatch watch;
    while (!checker_.wait_until_idle(kPatience)) interrupt_();
    report_.check_wait_s += watch.elapsed_s();
    checker_.rethrow();
    check_unchanged(plan_, files_);
  }

  LoadReport report() const {
    LoadReport report = report_;
    checker_.report_to(report);
    report.queue = queue_->name();
    report.reads = schedule_.reads.size();
    report.repeats = reader_.repeats();
    report.deepest = reader_.deepest();
    report.direct_files = static_cast<std::uint64_t>(
        std::count_if(files_.begin(), files_.end(), [](const File& f) { return f.is_direct(); }));
    report.buffered_files = files_.size() - report.direct_files;
    if (prefaulter_) report.prefault_s = prefaulter_->busy_s();
    return report;
  }

  std::vector<BadSpan> bad_spans() const { return checker_.bad_spans(); }

 private:
  // False where the read needs a slot and none is free.
  bool start(std::size_t index) {
    const PlannedRead& read = schedule_.reads[index];
    FinishedRead& reading = reading_[index];
    if (read.in_place) {
      reading.bytes = destination_ + read.destination;
      report_.bytes_in_place += read.bytes;
      if (prefaulter_) prefaulter_->advance(read.destination + read.bytes);
    } else {
      reading.slot = staging_.try_acquire();
      if (!reading.slot) return false;
      reading.bytes = reading.slot.start();
    }
    reading.read = &read;
    report_.bytes_read += read.bytes;
    reader_.add({&files_[read.file], reading.bytes, read.offset, read.bytes, index});
    return true;
  }

  void collect() {
    const Stopwatch watch;
    const auto whole = reader_.wait(kPatience);
    report_.read_wait_s += watch.elapsed_s();
    for (const std::uint64_t index : whole) {
      const PlannedRead& read = schedule_.reads[index];
      const bool needs_check = read.pieces > 0 || !plan_.files[read.file].span_crcs.empty();
      FinishedRead finished = std::move(reading_[index]);
      if (needs_check) checker_.push(std::move(finished));
    }
  }

  // Destroyed from the last to the first: the reader drains before the memory and the files it reads go.
  const LoadPlan& plan_;
  const Schedule& schedule_;
  std::byte* destination_;
  const Interrupt& interrupt_;
  LoadReport report_;
  std::vector<File> files_;
  std::unique_ptr<ReadQueue> queue_;
  StagingPool staging_;
  Checker checker_;
  std::vector<FinishedRead> reading_;
  std::optional<Prefaulter> prefaulter_;
  ExtentReader reader_;
};

void validate(const LoadPlan& plan, const LoadOptions& options) {
  validate(plan);
  if (options.extent_bytes == 0 || options.extent_bytes % kSpanBytes != 0 ||
      options.extent_bytes > (1 << 30)) {
    throw Error(ErrorCode::kInvalid, "extents of " + std::to_string(options.extent_bytes) +
                                         " bytes are not whole spans of 1 MiB up to 1 GiB");
  }
  if (options.depth == 0 || options.depth > 1024 || options.check_threads == 0 ||
      options.check_threads > 256) {
    throw Error(ErrorCode::kInvalid, "depth " + std::to_string(options.depth) + " or check threads " +
                                         std::to_string(options.check_threads) + " is out of range");
  }
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

LoadReport load(const LoadPlan& plan, std::span<std::byte> destination, const LoadOptions& options,
                const Interrupt& interrupt) {
  validate(plan, options);
  if (destination.size() < plan.destination_bytes) {
    throw Error(ErrorCode::kInvalid, "a destination of " + std::to_string(destination.size()) +
                                         " bytes for " + std::to_string(plan.destination_bytes));
  }
  if (plan.files.empty()) return {};
  const Schedule schedule = make_schedule(plan, options.extent_bytes);
  return run({plan, schedule, destination.data(), OnCorrupt::kFail}, options, interrupt).report;
}

CheckResult check(const LoadPlan& plan, const LoadOptions& options, const Interrupt& interrupt) {
  validate(plan, options);
  if (plan.files.empty()) return {};
  const Schedule schedule = make_check_schedule(plan, options.extent_bytes);
  return run({plan, schedule, nullptr, OnCorrupt::kCollect}, options, interrupt);
}

}  // namespace sllm
