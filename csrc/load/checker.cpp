#include "load/checker.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <string>
#include <system_error>

#include "base/clock.h"
#include "base/crc32c.h"
#include "base/error.h"

namespace sllm {

Checker::Checker(const Work& work, unsigned threads) : work_(work) {
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
  report.verify_s += tally_.verify_s;
  report.copy_s += tally_.copy_s;
  report.bytes_verified += tally_.bytes_verified;
}

std::vector<BadSpan> Checker::bad_spans() const {
  const std::lock_guard lock(mutex_);
  std::vector<BadSpan> sorted = tally_.bad_spans;
  std::sort(sorted.begin(), sorted.end());
  return sorted;
}

void Checker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    pushed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
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
    tally_.verify_s += tally.verify_s;
    tally_.copy_s += tally.copy_s;
    tally_.bytes_verified += tally.bytes_verified;
    tally_.bad_spans.insert(tally_.bad_spans.end(), tally.bad_spans.begin(), tally.bad_spans.end());
    if (failure && !failure_) failure_ = failure;
    if (--unfinished_ == 0 || failure_) idle_.notify_all();
  }
}

Checker::Tally Checker::finish(const FinishedRead& finished) const {
  Tally tally;
  if (!work_.plan.files[finished.read->file].span_crcs.empty()) {
    const Stopwatch watch;
    verify(finished, tally);
    tally.verify_s = watch.elapsed_s();
  }
  if (finished.read->pieces > 0) {
    const Stopwatch watch;
    copy(finished);
    tally.copy_s = watch.elapsed_s();
  }
  return tally;
}

void Checker::verify(const FinishedRead& finished, Tally& tally) const {
  const PlannedRead& read = *finished.read;
  const PlannedFile& file = work_.plan.files[read.file];
  for (std::uint64_t at = 0; at < read.bytes; at += kSpanBytes) {
    const std::uint64_t bytes = std::min(kSpanBytes, read.bytes - at);
    const std::uint64_t span = (read.offset + at) / kSpanBytes;
    if (crc32c(std::span(finished.bytes + at, bytes)) == file.span_crcs[span]) continue;
    if (work_.on_corrupt == OnCorrupt::kFail) {
      const std::uint64_t begin = read.offset + at;
      throw Error(ErrorCode::kCorrupt, file.path + " is damaged: the crc32c of bytes " +
                                           std::to_string(begin) + " to " + std::to_string(begin + bytes) +
                                           " does not match");
    }
    tally.bad_spans.push_back({read.file, span});
  }
  tally.bytes_verified += read.bytes;
}

void Checker::copy(const FinishedRead& finished) const {
  const PlannedRead& read = *finished.read;
  for (const Piece& piece : std::span(work_.schedule.pieces).subspan(read.first_piece, read.pieces)) {
    std::memcpy(work_.destination + piece.destination, finished.bytes + piece.from, piece.bytes);
  }
}

}  // namespace sllm
