#include "memory/chunk_pool.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/size.h"
#include "memory/aligned_mapping.h"
#include "memory/populate.h"

namespace sllm {
namespace {

constexpr std::uint64_t kLeastChunkBytes = 4 * kMiB;
constexpr std::uint64_t kMostBytes = std::numeric_limits<off_t>::max();

// Younger than some headers.
constexpr unsigned kNoExecSeal = 0x0008;  // MFD_NOEXEC_SEAL, Linux 6.3
constexpr int kSealFutureWrite = 0x0010;  // F_SEAL_FUTURE_WRITE, Linux 5.1
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | kSealFutureWrite | F_SEAL_SEAL;

[[noreturn]] void refuse(std::uint64_t bytes, int number) {
  throw error_from_errno(number, "cannot make a pool of " + std::to_string(bytes) + " bytes");
}

void check_sizes(std::uint64_t bytes, std::uint64_t chunk_bytes) {
  const bool is_fit = chunk_bytes >= kLeastChunkBytes && std::has_single_bit(chunk_bytes) && bytes > 0 &&
                      bytes <= kMostBytes && bytes % chunk_bytes == 0;
  if (is_fit) return;
  throw Error(ErrorCode::kInvalid, "a pool of " + std::to_string(bytes) + " bytes is not whole chunks of " +
                                       std::to_string(chunk_bytes) +
                                       ", or these not 4 MiB times a power of two");
}

UniqueFd make_file() {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  UniqueFd file(::memfd_create("sllm-pool", flags | kNoExecSeal));
  if (!file && errno == EINVAL) file = UniqueFd(::memfd_create("sllm-pool", flags));
  return file;
}

// Its owner alone may open it again, and for reading only.
UniqueFd make_sized_file(std::uint64_t bytes) {
  UniqueFd file = make_file();
  if (!file || ::fchmod(file.get(), S_IRUSR) != 0 ||
      ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    refuse(bytes, errno);
  }
  return file;
}

Mapping map_shared(int file, std::uint64_t bytes) {
  Mapping mapping = map_aligned(bytes, kHugePageBytes, PROT_NONE);
  const int flags = MAP_SHARED | MAP_FIXED;
  if (::mmap(mapping.start(), bytes, PROT_READ | PROT_WRITE, flags, file, 0) == MAP_FAILED)
    refuse(bytes, errno);
  return mapping;
}

struct flock lock_of(short type, std::uint64_t first, std::uint64_t count) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = static_cast<off_t>(first);
  lock.l_len = static_cast<off_t>(count);
  return lock;
}

void lock_for_reading(int file, std::uint64_t first, std::uint64_t count) {
  struct flock lock = lock_of(F_RDLCK, first, count);
  if (::fcntl(file, F_OFD_SETLK, &lock) == 0) return;
  throw error_from_errno(
      errno, "cannot lease " + std::to_string(count) + " chunks from " + std::to_string(first) + " on");
}

}  // namespace

ChunkPool::ChunkPool(std::uint64_t bytes, std::uint64_t chunk_bytes)
    : bytes_(bytes), chunk_bytes_(chunk_bytes) {
  check_sizes(bytes, chunk_bytes);
  file_ = make_sized_file(bytes);
  mapping_ = map_shared(file_.get(), bytes);
  // Where the kernel gives such memory huge pages on advice (shmem_enabled), the first touch brings one.
  advise_pages(memory(), PageKind::kHuge);
  touched_ = std::make_unique<std::atomic<bool>[]>(chunks());
  if (::fcntl(file_.get(), F_ADD_SEALS, kSeals) == 0) return;
  if (errno != EINVAL) refuse(bytes, errno);
  throw Error(ErrorCode::kUnsupported, "this kernel cannot seal a pool against writing (before Linux 5.1)");
}

void ChunkPool::check(ChunkRange range) const {
  if (range.count > 0 && range.first < chunks() && range.count <= chunks() - range.first) return;
  throw Error(ErrorCode::kInvalid, std::to_string(range.count) + " chunks from " +
                                       std::to_string(range.first) + " on in a pool of " +
                                       std::to_string(chunks()));
}

std::span<std::byte> ChunkPool::memory(ChunkRange range) const {
  check(range);
  return memory().subspan(range.first * chunk_bytes_, range.count * chunk_bytes_);
}

// Opened anew and not duplicated: locks belong to the file description, and read-only is a property of it.
UniqueFd ChunkPool::open_lease(LeaseNumber number, std::span<const ChunkRange> ranges) const {
  if (number >= kMostBytes - chunks()) {
    throw Error(ErrorCode::kInvalid, "no lease can have the number " + std::to_string(number));
  }
  for (const ChunkRange& range : ranges) check(range);
  const std::string path = "/proc/self/fd/" + std::to_string(file_.get());
  UniqueFd lease(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!lease) throw error_from_errno(errno, "cannot open " + path + " for a lease");
  for (const ChunkRange& range : ranges) lock_for_reading(lease.get(), range.first, range.count);
  lock_for_reading(lease.get(), chunks() + number, 1);
  return lease;
}

bool ChunkPool::is_leased(ChunkRange range) const {
  check(range);
  return is_locked(range.first, range.count);
}

bool ChunkPool::is_alive(LeaseNumber number) const {
  return number < kMostBytes - chunks() && is_locked(chunks() + number, 1);
}

// Whether the pool's own description, which has no locks, could take a write lock.
bool ChunkPool::is_locked(std::uint64_t first, std::uint64_t count) const {
  struct flock lock = lock_of(F_WRLCK, first, count);
  if (::fcntl(file_.get(), F_OFD_GETLK, &lock) != 0) {
    throw error_from_errno(errno, "cannot ask for the leases of a pool");
  }
  return lock.l_type != F_UNLCK;
}

bool ChunkPool::is_touched(std::uint64_t chunk) const {
  check({chunk, 1});
  return touched_[chunk].load(std::memory_order_relaxed);
}

void ChunkPool::note_touched(ChunkRange range) {
  check(range);
  for (std::uint64_t chunk = range.first; chunk < range.first + range.count; ++chunk) {
    if (!touched_[chunk].exchange(true, std::memory_order_relaxed)) {
      touched_count_.fetch_add(1, std::memory_order_relaxed);
    }
  }
}

}  // namespace sllm
