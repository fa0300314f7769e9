#pragma once

#include <cstddef>
#include <cstdint>

// The part of the kernel's io_uring interface that is used here (io_uring_setup(2), io_uring_enter(2)),
// declared because the build must not depend on the age of the system's headers.
namespace sllm::uring {

inline constexpr long kSetupCall = 425;
inline constexpr long kEnterCall = 426;
inline constexpr long kRegisterCall = 427;

inline constexpr unsigned kRegisterBuffers = 0;
inline constexpr unsigned kUnregisterBuffers = 1;
inline constexpr unsigned kRegisterFiles = 2;
inline constexpr std::uint64_t kMostRegisteredBytes = std::uint64_t{1} << 30;  // in one buffer
inline constexpr std::size_t kMostRegistered = 1024;                           // before Linux 5.13

inline constexpr std::uint64_t kSubmissionRingAt = 0;
inline constexpr std::uint64_t kCompletionRingAt = 0x8000000;
inline constexpr std::uint64_t kEntriesAt = 0x10000000;

inline constexpr std::uint32_t kFeatureSingleMap = 1U << 0;  // both rings in one mapping
inline constexpr std::uint8_t kOperationReadRegistered = 4;  // into a registered buffer
inline constexpr std::uint8_t kOperationRead = 22;           // Linux 5.6
inline constexpr std::uint8_t kFlagRegisteredFile = 1U << 0;

struct SubmissionOffsets {
  std::uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, reserved;
  std::uint64_t user_address;
};

struct CompletionOffsets {
  std::uint32_t head, tail, ring_mask, ring_entries, overflow, entries, flags, reserved;
  std::uint64_t user_address;
};

struct Parameters {
  std::uint32_t submission_entries, completion_entries, flags, thread_cpu, thread_idle, features,
      workqueue_fd;
  std::uint32_t reserved[3];
  SubmissionOffsets submission;
  CompletionOffsets completion;
};
static_assert(sizeof(Parameters) == 120);

struct SubmissionEntry {
  std::uint8_t operation, flags;
  std::uint16_t priority;
  std::int32_t fd;
  std::uint64_t offset;
  std::uint64_t address;
  std::uint32_t bytes;
  std::uint32_t read_flags;
  std::uint64_t tag;
  std::uint16_t buffer_index, personality;
  std::int32_t file_index;
  std::uint64_t reserved[2];
};
static_assert(sizeof(SubmissionEntry) == 64);

struct CompletionEntry {
  std::uint64_t tag;
  std::int32_t result;
  std::uint32_t flags;
};
static_assert(sizeof(CompletionEntry) == 16);

}  // namespace sllm::uring
