#include "io/uring_queue.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <string>

#include "base/error.h"

namespace sllm {
namespace {

Mapping map_ring(int fd, std::size_t bytes, std::uint64_t at) {
  void* start =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(at));
  if (start == MAP_FAILED)
    throw error_from_errno(errno, "cannot map an io_uring of " + std::to_string(bytes) + " bytes");
  return Mapping(start, bytes);
}

template <typename T>
T* inside(const Mapping& mapping, std::uint32_t offset) {
  return reinterpret_cast<T*>(mapping.start() + offset);
}

Error setup_error(int number) {
  const Error error = error_from_errno(number, "cannot set up io_uring");
  const std::string message = error.what();
  // A seccomp profile answers EPERM or ENOSYS, the sysctl io_uring_disabled EPERM.
  if (number == ENOSYS) {
    return {ErrorCode::kUnsupported, message + ": the kernel is older than 5.1 or a sandbox hides it"};
  }
  if (number == EPERM) {
    return {ErrorCode::kUnsupported,
            message + ": a seccomp profile (containers have one) or kernel.io_uring_disabled forbids it"};
  }
  if (number == ENOMEM) return {error.code(), message + ": the locked-memory limit is too low"};
  return error;
}

bool register_with(int ring, unsigned what, const void* items, std::size_t count) {
  long result = 0;
  do {
    result = ::syscall(uring::kRegisterCall, ring, what, items, count);
  } while (result < 0 && errno == EINTR);
  return result == 0;
}

// As the kernel takes memory: in pieces of at most a GiB each, a thousand of them.
std::vector<std::span<std::byte>> cut(std::span<const std::span<std::byte>> areas) {
  std::vector<std::span<std::byte>> pieces;
  for (std::span<std::byte> area : areas) {
    for (; !area.empty() && pieces.size() < uring::kMostRegistered;) {
      const std::size_t bytes = std::min<std::size_t>(area.size(), uring::kMostRegisteredBytes);
      pieces.push_back(area.first(bytes));
      area = area.subspan(bytes);
    }
  }
  return pieces;
}

}  // namespace

UringQueue::UringQueue(unsigned depth) : depth_(depth) {
  uring::Parameters parameters{};
  ring_ = UniqueFd(static_cast<int>(::syscall(uring::kSetupCall, depth, &parameters)));
  if (!ring_) throw setup_error(errno);
  map_rings(parameters);
}

void UringQueue::map_rings(const uring::Parameters& parameters) {
  const auto& submission = parameters.submission;
  const auto& completion = parameters.completion;
  std::size_t submission_bytes = submission.array + parameters.submission_entries * sizeof(std::uint32_t);
  const std::size_t completion_bytes =
      completion.entries + parameters.completion_entries * sizeof(uring::CompletionEntry);
  const bool is_single = (parameters.features & uring::kFeatureSingleMap) != 0;
  if (is_single) submission_bytes = std::max(submission_bytes, completion_bytes);

  submission_ring_ = map_ring(ring_.get(), submission_bytes, uring::kSubmissionRingAt);
  if (!is_single) completion_ring_ = map_ring(ring_.get(), completion_bytes, uring::kCompletionRingAt);
  entries_mapping_ = map_ring(ring_.get(), parameters.submission_entries * sizeof(uring::SubmissionEntry),
                              uring::kEntriesAt);

  submission_tail_ = inside<std::uint32_t>(submission_ring_, submission.tail);
  submission_array_ = inside<std::uint32_t>(submission_ring_, submission.array);
  submission_mask_ = *inside<std::uint32_t>(submission_ring_, submission.ring_mask);
  entries_ = inside<uring::SubmissionEntry>(entries_mapping_, 0);

  const Mapping& completions = is_single ? submission_ring_ : completion_ring_;
  completion_head_ = inside<std::uint32_t>(completions, completion.head);
  completion_tail_ = inside<std::uint32_t>(completions, completion.tail);
  completion_mask_ = *inside<std::uint32_t>(completions, completion.ring_mask);
  completions_ = inside<const uring::CompletionEntry>(completions, completion.entries);
}

UringQueue::~UringQueue() {
  // Closing the ring would unlock the memory too, but some time later, in a thread of the kernel's.
  if (!buffers_.empty()) register_with(ring_.get(), uring::kUnregisterBuffers, nullptr, 0);
}

Registered UringQueue::prepare(const Foreseen& foreseen) {
  register_files(foreseen.fds);
  register_memory(foreseen.memory);
  Registered registered{.files = files_.size()};
  for (const auto& buffer : buffers_) registered.bytes += buffer.size();
  return registered;
}

void UringQueue::register_files(std::span<const int> fds) {
  if (fds.empty() || fds.size() > uring::kMostRegistered) return;
  if (!register_with(ring_.get(), uring::kRegisterFiles, fds.data(), fds.size())) return;
  for (std::size_t i = 0; i < fds.size(); ++i) files_.emplace_back(fds[i], static_cast<std::int32_t>(i));
  std::sort(files_.begin(), files_.end());
}

void UringQueue::register_memory(std::span<const std::span<std::byte>> memory) {
  std::vector<std::span<std::byte>> pieces = cut(memory);
  // The locked-memory limit counts what is locked elsewhere too, so it can only be tried out.
  for (; !pieces.empty(); pieces.resize(pieces.size() / 2)) {
    auto sorted = pieces;
    std::sort(sorted.begin(), sorted.end(), [](auto a, auto b) { return a.data() < b.data(); });
    std::vector<iovec> vectors;
    for (const auto& piece : sorted) vectors.push_back({piece.data(), piece.size()});
    if (!register_with(ring_.get(), uring::kRegisterBuffers, vectors.data(), vectors.size())) continue;
    buffers_ = std::move(sorted);
    return;
  }
}

uring::SubmissionEntry UringQueue::entry_for(const ReadRequest& request) const {
  uring::SubmissionEntry entry{};
  entry.operation = uring::kOperationRead;
  entry.fd = request.fd;
  entry.offset = request.offset;
  entry.address = reinterpret_cast<std::uint64_t>(request.into);
  entry.bytes = request.bytes;
  entry.tag = request.tag;
  const auto file = std::lower_bound(files_.begin(), files_.end(), std::pair{request.fd, 0});
  if (file != files_.end() && file->first == request.fd) {
    entry.fd = file->second;
    entry.flags = uring::kFlagRegisteredFile;
  }
  const auto behind =
      std::upper_bound(buffers_.begin(), buffers_.end(), request.into,
                       [](const std::byte* into, auto buffer) { return into < buffer.data(); });
  if (behind != buffers_.begin() && request.into + request.bytes <= behind[-1].data() + behind[-1].size()) {
    entry.operation = uring::kOperationReadRegistered;
    entry.buffer_index = static_cast<std::uint16_t>(behind - buffers_.begin() - 1);
  }
  return entry;
}

void UringQueue::submit(std::span<const ReadRequest> requests) {
  std::uint32_t tail = *submission_tail_;
  for (const ReadRequest& request : requests) {
    const std::uint32_t slot = tail++ & submission_mask_;
    entries_[slot] = entry_for(request);
    submission_array_[slot] = slot;
  }
  // The kernel reads the entries when it sees the tail (io_uring(7)).
  std::atomic_ref(*submission_tail_).store(tail, std::memory_order_release);
  for (std::size_t left = requests.size(); left > 0;) {
    const long taken = ::syscall(uring::kEnterCall, ring_.get(), left, 0, 0, nullptr, 0);
    if (taken >= 0) {
      left -= static_cast<std::size_t>(taken);
    } else if (errno != EINTR && errno != EAGAIN && errno != EBUSY) {
      throw error_from_errno(errno, "cannot submit " + std::to_string(left) + " reads to io_uring");
    }
  }
}

std::size_t UringQueue::wait(std::span<ReadCompletion> completions, std::chrono::milliseconds patience) {
  if (const std::size_t count = collect(completions)) return count;
  pollfd ready{.fd = ring_.get(), .events = POLLIN, .revents = 0};
  if (::poll(&ready, 1, static_cast<int>(patience.count())) < 0 && errno != EINTR) {
    throw error_from_errno(errno, "cannot wait for io_uring");
  }
  return collect(completions);
}

std::size_t UringQueue::collect(std::span<ReadCompletion> completions) {
  std::uint32_t head = *completion_head_;
  const std::uint32_t tail = std::atomic_ref(*completion_tail_).load(std::memory_order_acquire);
  std::size_t count = 0;
  for (; head != tail && count < completions.size(); ++head, ++count) {
    const uring::CompletionEntry& entry = completions_[head & completion_mask_];
    completions[count] = {entry.tag, entry.result};
  }
  std::atomic_ref(*completion_head_).store(head, std::memory_order_release);
  return count;
}

}  // namespace sllm
