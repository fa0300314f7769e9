#include "load/pipeline.h"

#include <algorithm>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/size.h"
#include "io/extent_reader.h"
#include "io/file.h"
#include "load/checker.h"
#include "load/schedule.h"
#include "load/sources.h"
#include "load/staging.h"
#include "memory/file_mapping.h"
#include "memory/prefaulter.h"

namespace sllm {
namespace {

// How long the reading thread waits before it looks whether it should go on.
constexpr std::chrono::milliseconds kPatience{50};

constexpr unsigned kMostCheckThreads = 4;

// Registering memory locks its pages ahead, which takes as long as each read's locking of them: a slot repays
// that when it is read into again, a destination, read into once, never does.
constexpr std::size_t kUsesToRegister = 4;

// What a load's stages share, and the loop that drives them.
class Run {
 public:
  Run(const Checker::Work& work, const LoadOptions& options, const Interrupt& interrupt)
      : plan_(work.plan),
        schedule_(work.schedule),
        destination_(work.destination),
        interrupt_(interrupt),
        sources_(work.plan, work.schedule, {options.access, options.cache}),
        queue_(make_queue(options)),
        staging_(most_in_flight(options) + 1, align_up(options.extent_bytes, kBlockBytes)),
        checker_(work, check_threads(options)),
        reading_(schedule_.reads.size()),
        populator_(work.fresh) {
    map_all();
    if (queue_ == nullptr) return;
    if (options.registers) prepare_queue();
    if (populator_ != nullptr) prefaulter_.emplace(pieces_to_read(), *populator_);
    reader_.emplace(*queue_);
  }

  void read_all() {
    std::size_t next = 0;
    while (next < schedule_.reads.size() || in_flight() > 0) {
      interrupt_();
      while (next < schedule_.reads.size() && may_start(next) && start(next)) ++next;
      if (in_flight() > 0) {
        collect();
      } else if (next < schedule_.reads.size()) {
        const Stopwatch watch;
        staging_.wait_for_slot(kPatience);
        report_.check_wait_s += watch.elapsed_s();
      }
      checker_.rethrow();
    }
  }

  void finish() {
    const Stopwatch watch;
    while (!checker_.wait_until_idle(kPatience)) interrupt_();
    report_.check_wait_s += watch.elapsed_s();
    checker_.rethrow();
    sources_.check_unchanged(plan_);
  }

  LoadReport report() const {
    LoadReport report = report_;
    checker_.report_to(report);
    report.reads = schedule_.reads.size();
    if (reader_) {
      report.queue = queue_->name();
      report.repeats = reader_->repeats();
      report.deepest = reader_->deepest();
    }
    const auto& files = sources_.files();
    report.direct_files = static_cast<std::uint64_t>(
        std::count_if(files.begin(), files.end(), [](const File& file) { return file.is_direct(); }));
    report.buffered_files = files.size() - report.direct_files;
    if (populator_ != nullptr) report.bytes_huge = populator_->huge_bytes();
    if (prefaulter_) {
      report.prefault_s = prefaulter_->busy_s();
      report.prefault_threads = prefaulter_->threads();
    }
    return report;
  }

  std::vector<BadSpan> bad_spans() const { return checker_.bad_spans(); }

 private:
  // Null where nothing is read from the drive.
  std::unique_ptr<ReadQueue> make_queue(const LoadOptions& options) const {
    const std::vector<int> fds = sources_.fds_to_read();
    return fds.empty() ? nullptr : options.queue(options.depth, fds.front());
  }

  std::size_t most_in_flight(const LoadOptions& options) const {
    return queue_ == nullptr ? options.depth : queue_->depth();
  }

  void prepare_queue() {
    const std::vector<int> fds = sources_.fds_to_read();
    const auto staged =
        static_cast<std::size_t>(std::count_if(schedule_.reads.begin(), schedule_.reads.end(),
                                               [](const PlannedRead& read) { return !read.in_place; }));
    std::vector<std::span<std::byte>> slots;
    if (staged >= kUsesToRegister * queue_->depth()) slots = staging_.memory();
    report_.bytes_registered = queue_->prepare({fds, slots}).bytes;
  }

  // A CRC runs at the speed of memory, so one thread is enough beside a drive; the page cache delivers as
  // much as the cores take.
  unsigned check_threads(const LoadOptions& options) const {
    if (options.check_threads > 0) return options.check_threads;
    return sources_.count(Fetch::kRead) == schedule_.reads.size()
               ? 1
               : std::clamp(std::thread::hardware_concurrency(), 1U, kMostCheckThreads);
  }

  std::vector<std::span<std::byte>> pieces_to_read() const {
    std::vector<std::span<std::byte>> pieces;
    for (std::size_t index = 0; index < schedule_.reads.size(); ++index) {
      const PlannedRead& read = schedule_.reads[index];
      const bool is_read = read.in_place && sources_.fetch_of(index) == Fetch::kRead;
      if (is_read) pieces.emplace_back(destination_ + read.destination, read.bytes);
    }
    return pieces;
  }

  std::size_t in_flight() const { return reader_ ? reader_->in_flight() : 0; }

  bool may_start(std::size_t index) const {
    return sources_.fetch_of(index) != Fetch::kRead || reader_->has_room();
  }

  // False where the read needs a slot and none is free.
  bool start(std::size_t index) {
    const PlannedRead& read = schedule_.reads[index];
    FinishedRead& reading = reading_[index];
    if (!read.in_place && !(reading.slot = staging_.try_acquire())) return false;
    reading.read = &read;
    reading.bytes = read.in_place ? destination_ + read.destination : reading.slot.start();
    reading.fetch = sources_.fetch_of(index);
    report_.bytes_read += read.bytes;
    if (read.in_place) report_.bytes_in_place += read.bytes;
    if (reading.fetch == Fetch::kRead) {
      if (read.in_place && prefaulter_) prefaulter_->skip(++landing_);
      reader_->add({&sources_.file(read.file), reading.bytes, read.offset, read.bytes, index});
    } else {
      fetch(reading);
    }
    return true;
  }

  // Neighbours in one mapping: fewer calls, and no huge page of the file is cut in two.
  void map_all() {
    std::vector<PlannedRead> mapped;
    for (std::size_t index = 0; index < schedule_.reads.size(); ++index) {
      if (sources_.fetch_of(index) == Fetch::kMapped) mapped.push_back(schedule_.reads[index]);
    }
    std::sort(mapped.begin(), mapped.end(), [](const PlannedRead& a, const PlannedRead& b) {
      return std::pair(a.file, a.offset) < std::pair(b.file, b.offset);
    });
    for (std::size_t first = 0; first < mapped.size();) {
      PlannedRead run = mapped[first++];
      while (first < mapped.size() && continues(run, mapped[first])) run.bytes += mapped[first++].bytes;
      map_in_place(sources_.file(run.file).fd(), run.offset, {destination_ + run.destination, run.bytes});
      report_.bytes_mapped += run.bytes;
    }
  }

  static bool continues(const PlannedRead& run, const PlannedRead& next) {
    return run.file == next.file && run.offset + run.bytes == next.offset &&
           run.destination + run.bytes == next.destination;
  }

  void fetch(FinishedRead& reading) {
    const PlannedRead& read = *reading.read;
    if (reading.fetch == Fetch::kCopied) {
      reading.cached = &sources_.cached(read.file);
      report_.bytes_cached += read.bytes;
    }
    hand_over(reading);
  }

  void collect() {
    const Stopwatch watch;
    const auto whole = reader_->wait(kPatience);
    report_.read_wait_s += watch.elapsed_s();
    for (const std::uint64_t index : whole) hand_over(reading_[index]);
  }

  // To the checker, unless there is nothing left to do. Mapped bytes that nobody verifies stay untouched.
  void hand_over(FinishedRead& reading) {
    const PlannedRead& read = *reading.read;
    const bool is_verified = !plan_.files[read.file].span_crcs.empty();
    FinishedRead finished = std::move(reading);
    if (is_verified || read.pieces > 0 || finished.fetch == Fetch::kCopied)
      checker_.push(std::move(finished));
  }

  // Destroyed from the last to the first: the reader drains before the memory and the files it reads go.
  const LoadPlan& plan_;
  const Schedule& schedule_;
  std::byte* destination_;
  const Interrupt& interrupt_;
  LoadReport report_;
  Sources sources_;
  std::unique_ptr<ReadQueue> queue_;
  StagingPool staging_;
  Checker checker_;
  std::vector<FinishedRead> reading_;
  std::size_t landing_ = 0;  // reads from the drive in place, so far
  Populator* populator_;     // null where the destination has been touched
  std::optional<Prefaulter> prefaulter_;
  std::optional<ExtentReader> reader_;
};

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

// As large as asked for, but small enough that a small load keeps the drive as deep as a large one, and its
// bytes are checked while others are read.
LoadOptions fitted(const LoadOptions& options, std::uint64_t bytes) {
  LoadOptions fit = options;
  const std::uint64_t share = align_down(bytes / (2 * options.depth), kSpanBytes);
  fit.extent_bytes = std::clamp(share, kSpanBytes, options.extent_bytes);
  return fit;
}

std::uint64_t bytes_of(const LoadPlan& plan) {
  std::uint64_t bytes = 0;
  for (const Extent& extent : plan.extents) bytes += extent.bytes;
  return bytes;
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
  const LoadOptions fit = fitted(options, bytes_of(plan));
  const Schedule schedule = make_schedule(plan, fit.extent_bytes);
  std::optional<Populator> populator;
  if (options.is_fresh) populator.emplace(destination.first(plan.destination_bytes));
  Populator* fresh = populator ? &*populator : nullptr;
  return run({plan, schedule, destination.data(), OnCorrupt::kFail, fresh}, fit, interrupt).report;
}

CheckResult check(const LoadPlan& plan, const LoadOptions& options, const Interrupt& interrupt) {
  validate(plan, options);
  if (plan.files.empty()) return {};
  const Schedule schedule = make_check_schedule(plan, options.extent_bytes);
  return run({plan, schedule, nullptr, OnCorrupt::kCollect, nullptr}, options, interrupt);
}

}  // namespace sllm
