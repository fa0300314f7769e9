#include "load/run.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "base/clock.h"
#include "base/size.h"
#include "memory/file_mapping.h"

namespace sllm {
namespace {

// How long the reading thread waits before it looks whether it should go on.
constexpr std::chrono::milliseconds kPatience{50};

constexpr unsigned kMostCheckThreads = 4;

// Registering memory locks its pages ahead, which takes as long as each read's locking of them: a slot repays
// that when it is read into again, a destination, read into once, never does.
constexpr std::size_t kUsesToRegister = 4;

bool continues(const PlannedRead& run, const PlannedRead& next) {
  return run.file == next.file && run.target == next.target && run.offset + run.bytes == next.offset &&
         run.destination + run.bytes == next.destination;
}

}  // namespace

Run::Run(const Checker::Work& work, const LoadOptions& options, const Interrupt& interrupt)
    : plan_(work.plan),
      schedule_(work.schedule),
      targets_(work.targets),
      interrupt_(interrupt),
      follows_landing_(options.on_landed != nullptr),
      populator_(work.fresh),
      sources_(work.plan, work.schedule, {options.access, options.cache}),
      queue_(make_queue(options)),
      landing_(work.targets),
      reading_(work.schedule.reads.size()) {
  make_staging(options);
  checker_.emplace(with_landed(work, options.on_landed), landing_, check_threads(options));
  map_all();
  if (queue_ == nullptr) return;
  if (options.registers) prepare_queue();
  if (populator_ != nullptr) prefaulter_.emplace(pieces_to_read(), *populator_);
  reader_.emplace(*queue_);
}

// Bytes that nobody verifies are the file's only if that did not change before they were there.
Checker::Work Run::with_landed(const Checker::Work& work, const OnLanded& on_landed) const {
  Checker::Work with = work;
  if (!on_landed) return with;
  with.on_landed = [this, on_landed](const PlannedRead& read) {
    if (plan_.files[read.file].span_crcs.empty()) sources_.check_unchanged(plan_, read.file);
    on_landed(read.file, read.offset, read.bytes);
  };
  return with;
}

// Null where nothing is read from the drive.
std::unique_ptr<ReadQueue> Run::make_queue(const LoadOptions& options) const {
  const std::vector<int> fds = sources_.fds_to_read();
  return fds.empty() ? nullptr : options.queue(options.depth, fds.front());
}

// Slots enough for the reads in flight and one more that is checked, and, where a device copies out of them,
// as many again for its copies, as far as the bound lets.
void Run::make_staging(const LoadOptions& options) {
  const std::uint64_t slot_bytes = align_up(options.extent_bytes, kBlockBytes);
  std::size_t slots = (queue_ == nullptr ? options.depth : queue_->depth()) + 1;
  Device* device = first_device();
  if (device != nullptr) {
    slots = std::clamp<std::size_t>(options.staging_bytes / slot_bytes, 2, 2 * slots);
  }
  staging_.emplace(slots, slot_bytes, device);
}

Device* Run::first_device() const {
  const auto found =
      std::find_if(targets_.begin(), targets_.end(), [](const Target& target) { return !target.is_host(); });
  return found == targets_.end() ? nullptr : found->device;
}

void Run::prepare_queue() {
  const std::vector<int> fds = sources_.fds_to_read();
  std::vector<std::span<std::byte>> slots;
  if (staged_reads() >= kUsesToRegister * queue_->depth()) slots = staging_->memory();
  report_.bytes_registered = queue_->prepare({fds, slots}).bytes;
}

// A CRC runs at the speed of memory, so one thread is enough beside a drive; the page cache delivers as
// much as the cores take.
unsigned Run::check_threads(const LoadOptions& options) const {
  if (options.check_threads > 0) return options.check_threads;
  return sources_.count(Fetch::kRead) == schedule_.reads.size()
             ? 1
             : std::clamp(std::thread::hardware_concurrency(), 1U, kMostCheckThreads);
}

bool Run::is_staged(std::size_t index) const {
  return !schedule_.reads[index].in_place && sources_.fetch_of(index) != Fetch::kResident;
}

std::size_t Run::staged_reads() const {
  std::size_t count = 0;
  for (std::size_t index = 0; index < schedule_.reads.size(); ++index) count += is_staged(index);
  return count;
}

std::byte* Run::place_of(const PlannedRead& read) const { return targets_[read.target].at(read.destination); }

// One for each read in place, empty where there is nothing to fault in.
std::vector<std::span<std::byte>> Run::pieces_to_read() const {
  std::vector<std::span<std::byte>> pieces;
  for (std::size_t index = 0; index < schedule_.reads.size(); ++index) {
    const PlannedRead& read = schedule_.reads[index];
    if (!read.in_place || sources_.fetch_of(index) != Fetch::kRead) continue;
    const bool is_fresh = targets_[read.target].is_fresh_at(read.destination, read.bytes);
    pieces.emplace_back(place_of(read), is_fresh ? read.bytes : 0);
  }
  return pieces;
}

// Neighbours in one mapping: fewer calls, and no huge page of the file is cut in two.
void Run::map_all() {
  std::vector<PlannedRead> mapped;
  for (std::size_t index = 0; index < schedule_.reads.size(); ++index) {
    if (sources_.fetch_of(index) == Fetch::kMapped) mapped.push_back(schedule_.reads[index]);
  }
  std::sort(mapped.begin(), mapped.end(), [](const PlannedRead& a, const PlannedRead& b) {
    return std::pair(a.file, a.offset) < std::pair(b.file, b.offset);
  });
  for (std::size_t next = 0; next < mapped.size();) {
    PlannedRead run = mapped[next++];
    while (next < mapped.size() && continues(run, mapped[next])) run.bytes += mapped[next++].bytes;
    map_in_place(sources_.file(run.file).fd(), run.offset, {place_of(run), run.bytes});
    report_.bytes_mapped += run.bytes;
  }
}

void Run::read_all() {
  std::size_t next = 0;
  while (next < schedule_.reads.size() || in_flight() > 0) {
    interrupt_();
    while (next < schedule_.reads.size() && may_start(next) && start(next)) ++next;
    if (in_flight() > 0) {
      collect();
    } else if (next < schedule_.reads.size()) {
      wait_for_slot();
    }
    checker_->rethrow();
    landing_.rethrow();
  }
}

void Run::wait_for_slot() {
  const Stopwatch watch;
  staging_->wait_for_slot(kPatience);
  report_.check_wait_s += watch.elapsed_s();
}

bool Run::may_start(std::size_t index) const {
  return sources_.fetch_of(index) != Fetch::kRead || reader_->has_room();
}

// False where the read needs a slot and none is free.
bool Run::start(std::size_t index) {
  const PlannedRead& read = schedule_.reads[index];
  FinishedRead& reading = reading_[index];
  if (is_staged(index) && !(reading.slot = staging_->try_acquire())) return false;
  reading.read = &read;
  reading.fetch = sources_.fetch_of(index);
  reading.bytes = read.in_place ? place_of(read) : reading.slot ? reading.slot.start() : nullptr;
  report_.bytes_read += read.bytes;
  if (read.in_place) report_.bytes_in_place += read.bytes;
  if (reading.fetch == Fetch::kRead) {
    if (read.in_place && prefaulter_) prefaulter_->skip(++landing_in_place_);
    reader_->add({&sources_.file(read.file), reading.bytes, read.offset, read.bytes, index});
    return true;
  }
  if (reading.fetch == Fetch::kResident) {
    reading.bytes = plan_.files[read.file].resident.data() + read.offset;
    report_.bytes_resident += read.bytes;
  } else if (reading.fetch == Fetch::kCopied) {
    reading.cached = &sources_.cached(read.file);
    report_.bytes_cached += read.bytes;
  }
  hand_over(reading);
  return true;
}

void Run::collect() {
  const Stopwatch watch;
  const auto whole = reader_->wait(kPatience);
  report_.read_wait_s += watch.elapsed_s();
  for (const std::uint64_t index : whole) hand_over(reading_[index]);
}

// To the checker, unless there is nothing left to do. Mapped bytes that nobody verifies stay untouched.
void Run::hand_over(FinishedRead& reading) {
  const PlannedRead& read = *reading.read;
  const bool is_verified = !plan_.files[read.file].span_crcs.empty();
  FinishedRead finished = std::move(reading);
  if (is_verified || read.pieces > 0 || finished.fetch == Fetch::kCopied || follows_landing_) {
    checker_->push(std::move(finished));
  }
}

void Run::finish() {
  const Stopwatch checks;
  while (!checker_->wait_until_idle(kPatience)) interrupt_();
  report_.check_wait_s += checks.elapsed_s();
  checker_->rethrow();
  const Stopwatch copies;
  while (!landing_.wait_until_idle(kPatience)) interrupt_();
  report_.device_wait_s += copies.elapsed_s();
  landing_.rethrow();
  sources_.check_unchanged(plan_);
}

LoadReport Run::report() const {
  LoadReport report = report_;
  checker_->report_to(report);
  landing_.report_to(report);
  report.reads = schedule_.reads.size();
  if (reader_) {
    report.queue = queue_->name();
    report.repeats = reader_->repeats();
    report.deepest = reader_->deepest();
  }
  report.direct_files = sources_.count(FileAccess::kDirect);
  report.buffered_files = sources_.count(FileAccess::kBuffered);
  report.bytes_staging = staging_->used_bytes();
  report.bytes_pinned = staging_->pinned_bytes();
  if (populator_ != nullptr) report.bytes_huge = populator_->huge_bytes();
  if (prefaulter_) {
    report.prefault_s = prefaulter_->busy_s();
    report.prefault_threads = prefaulter_->threads();
  }
  return report;
}

}  // namespace sllm
