#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/size.h"
#include "io/temporary_file.h"
#include "store/store.h"

namespace sllm::testing {

inline constexpr std::uint64_t kChunk = 4 * kMiB;

inline std::vector<std::uint32_t> crcs_of(std::span<const std::byte> bytes) {
  std::vector<std::uint32_t> crcs;
  for (std::size_t at = 0; at < bytes.size(); at += kSpanBytes) {
    crcs.push_back(crc32c(bytes.subspan(at, std::min<std::size_t>(kSpanBytes, bytes.size() - at))));
  }
  return crcs;
}

// A checkpoint's bytes, file by file: what a store must give back.
class StoredBytes {
 public:
  explicit StoredBytes(std::vector<std::uint64_t> sizes, std::uint64_t seed = 1) {
    for (const std::uint64_t size : sizes) files.push_back(random_bytes(size, seed++));
  }

  CheckpointNumber add_to(Store& store, double cost_s_per_byte = 1e-9, bool is_proved = true) {
    std::vector<StoredFile> stored;
    for (const auto& bytes : files) {
      stored.push_back({bytes.size(), is_proved ? crcs_of(bytes) : std::vector<std::uint32_t>()});
    }
    return number = store.add(std::move(stored), cost_s_per_byte);
  }

  std::vector<FileRange> all() const {
    std::vector<FileRange> ranges;
    for (std::uint64_t file = 0; file < files.size(); ++file) ranges.push_back({file, 0, files[file].size()});
    return ranges;
  }

  std::span<const std::byte> at(const FileRange& range) const {
    return std::span(files[range.file]).subspan(range.begin, range.end - range.begin);
  }

  std::shared_ptr<Reservation> reserve(Store& store) const { return store.reserve(number, all()); }

  // Writes all that can be claimed of it.
  void bring(Reservation& reservation) const {
    for (const FileRange& range : claim(reservation)) reservation.write(range.file, range.begin, at(range));
  }

  // As ranges of the files: a part may lie in several pieces.
  std::vector<FileRange> claim(Reservation& reservation) const {
    std::vector<FileRange> ranges;
    for (const PooledPiece& piece : reservation.claim()) {
      if (!ranges.empty() && ranges.back().file == piece.file && ranges.back().end == piece.offset) {
        ranges.back().end += piece.bytes;
      } else {
        ranges.push_back({piece.file, piece.offset, piece.offset + piece.bytes});
      }
    }
    return ranges;
  }

  // Reserves and brings all of it, and lets it go.
  bool load(Store& store) const {
    const auto reservation = reserve(store);
    if (!reservation) return false;
    bring(*reservation);
    EXPECT_TRUE(reservation->is_complete());
    return true;
  }

  // Whether these pieces of the memory are the files' bytes.
  bool equals(std::span<const std::byte> pool, const std::vector<PooledPiece>& pieces) const {
    return std::all_of(pieces.begin(), pieces.end(), [&](const PooledPiece& piece) {
      const auto bytes = at({piece.file, piece.offset, piece.offset + piece.bytes});
      return std::ranges::equal(pool.subspan(piece.pool_offset, piece.bytes), bytes);
    });
  }

  std::vector<std::vector<std::byte>> files;
  CheckpointNumber number = 0;
};

// A lease as a client has it: all of the pool, mapped, and no descriptor.
class MappedLease {
 public:
  MappedLease(const UniqueFd& lease, std::uint64_t pool_bytes)
      : mapping_(::mmap(nullptr, pool_bytes, PROT_READ, MAP_PRIVATE, lease.get(), 0), pool_bytes) {
    EXPECT_NE(static_cast<void*>(mapping_.start()), MAP_FAILED);
  }
  std::span<const std::byte> bytes() const { return mapping_.span(); }

 private:
  Mapping mapping_;
};

inline MappedLease lease_of(Store& store, Reservation& reservation) {
  return MappedLease(reservation.lease().second, store.pool().memory().size());
}

inline std::uint64_t resident_bytes(const Store& store, CheckpointNumber number) {
  for (const CheckpointStatus& status : store.status().checkpoints) {
    if (status.number == number) return status.resident_bytes;
  }
  return 0;
}

// Whether something has changed since it was last asked.
inline bool take_change(const Store& store) {
  std::uint64_t count = 0;
  return ::read(store.changes_fd(), &count, sizeof count) == sizeof count;
}

inline void expect_error(ErrorCode code, const std::string& text, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "expected: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.code()), name_of(code));
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

}  // namespace sllm::testing
