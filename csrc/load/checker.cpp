#include "load/checker.h"

#include <algorithm>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/error.h"
#include "memory/populate.h"

namespace sllm {

Checker::Checker(const Work& work, Landing& landing, unsigned threads) : work_(work), landing_(landing) {
  try {
    for (unsigned i = 0; i < threads; ++i) threads_.emplace_back([this] { run(); });
  } catch (const std::system_error& error) {
    stop();
    throw error_from_errno(error.code().value(),
                           "cannot start " + std::to_string(threads) + " checking threads");
  }
}

Checker::~Checker() { stop(); }

void Checker::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  pushed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Checker::push(FinishedRead finished) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(finished));
    ++unfinished_;
  }
  pushed_.notify_one();
}

bool Checker::wait_until_idle(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, patience, [this] { return unfinished_ == 0 || failure_; });
}

void Checker::rethrow() {
  const std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
}

void Checker::report_to(LoadReport& report) const {
  const std::lock_guard lock(mutex_);
  report.fetch_s = tally_.fetch_s;
  report.verify_s = tally_.verify_s;
  report.copy_s = tally_.copy_s;
  report.check_idle_s = tally_.idle_s;
  report.bytes_verified = tally_.bytes_verified;
  report.check_threads = threads_.size();
}

std::vector<BadSpan> Checker::bad_spans() const {
  const std::lock_guard lock(mutex_);
  std::vector<BadSpan> sorted = tally_.bad_spans;
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

void Checker::Tally::add(const Tally& other) {
  verify_s += other.verify_s;
  copy_s += other.copy_s;
  fetch_s += other.fetch_s;
  idle_s += other.idle_s;
  bytes_verified += other.bytes_verified;
  bad_spans.insert(bad_spans.end(), other.bad_spans.begin(), other.bad_spans.end());
}

void Checker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const Stopwatch watch;
    pushed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    tally_.idle_s += watch.elapsed_s();
    FinishedRead finished = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    Tally tally;
    std::exception_ptr failure;
    try {
      tally = finish(finished);
    } catch (...) {
      failure = std::current_exception();
    }
    finished.slot = {};
    lock.lock();
    tally_.add(tally);
    if (failure && !failure_) failure_ = failure;
    if (--unfinished_ == 0 || failure_) idle_.notify_all();
  }
}

Checker::Tally Checker::finish(FinishedRead& finished) const {
  Tally tally;
  const PlannedRead& read = *finished.read;
  const bool is_verified = !work_.plan.files[read.file].span_crcs.empty();
  for (std::uint64_t at = 0; at < read.bytes; at += kSpanBytes) {
    const std::uint64_t bytes = std::min(kSpanBytes, read.bytes - at);
    if (finished.fetch == Fetch::kCopied || finished.fetch == Fetch::kMapped) {
      const Stopwatch watch;
      fetch_span(finished, at, bytes);
      tally.fetch_s += watch.elapsed_s();
    }
    if (is_verified) {
      const Stopwatch watch;
      verify_span(finished, at, bytes, tally);
      tally.verify_s += watch.elapsed_s();
    }
  }
  if (read.pieces > 0) {
    const Stopwatch watch;
    land(finished);
    tally.copy_s = watch.elapsed_s();
  }
  if (work_.on_landed) work_.on_landed(read);
  return tally;
}

void Checker::fetch_span(const FinishedRead& finished, std::uint64_t at, std::uint64_t bytes) const {
  if (finished.fetch == Fetch::kMapped) {
    if (populate_read({finished.bytes + at, bytes})) return;
    const std::uint64_t begin = finished.read->offset + at;
    throw Error(ErrorCode::kCorrupt, "cannot read " + std::to_string(bytes) + " mapped bytes at " +
                                         std::to_string(begin) + " from " +
                                         work_.plan.files[finished.read->file].path +
                                         ": the file was truncated, or its drive failed");
  }
  // Fault the pages in as a batch: one at a time inside pread costs more than the copy.
  const PlannedRead& read = *finished.read;
  if (work_.fresh != nullptr && read.in_place &&
      work_.targets[read.target].is_fresh_at(read.destination + at, bytes)) {
    work_.fresh->populate({finished.bytes + at, bytes});
  }
  read_wholly(*finished.cached, finished.read->offset + at, {finished.bytes + at, bytes});
}

void Checker::verify_span(const FinishedRead& finished, std::uint64_t at, std::uint64_t bytes,
                          Tally& tally) const {
  const PlannedFile& file = work_.plan.files[finished.read->file];
  const std::uint64_t begin = finished.read->offset + at;
  tally.bytes_verified += bytes;
  if (crc32c(std::span(finished.bytes + at, bytes)) == file.span_crcs[begin / kSpanBytes]) return;
  if (work_.on_corrupt == OnCorrupt::kFail) {
    throw Error(ErrorCode::kCorrupt, file.path + " is damaged: the crc32c of bytes " + std::to_string(begin) +
                                         " to " + std::to_string(begin + bytes) + " does not match");
  }
  tally.bad_spans.push_back({finished.read->file, begin / kSpanBytes});
}

void Checker::land(FinishedRead& finished) const {
  const PlannedRead& read = *finished.read;
  const auto pieces = std::span(work_.schedule.pieces).subspan(read.first_piece, read.pieces);
  landing_.land(pieces, finished.bytes, std::move(finished.slot));
}

}  // namespace sllm
