#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>

#include "base/error.h"
#include "base/size.h"

namespace sllm {
namespace {

UniqueFd open_with(const std::string& path, int flags) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  } while (fd < 0 && errno == EINTR);
  return UniqueFd(fd);
}

bool answers_direct_reads(int fd) {
  alignas(kBlockBytes) std::array<std::byte, kBlockBytes> block;
  ssize_t result = 0;
  do {
    result = ::pread(fd, block.data(), block.size(), 0);
  } while (result < 0 && errno == EINTR);
  return result >= 0 || errno != EINVAL;
}

[[noreturn]] void refuse_short(const std::string& name, std::uint64_t offset, std::size_t bytes, int number) {
  const std::string failed =
      "cannot read " + std::to_string(bytes) + " bytes at " + std::to_string(offset) + " from " + name;
  if (number != 0) throw error_from_errno(number, failed);
  throw Error(ErrorCode::kCorrupt, failed + ": the file ends there");
}

FileIdentity identity_from(const struct stat& status) {
  return {
      .device = status.st_dev,
      .inode = status.st_ino,
      .bytes = static_cast<std::uint64_t>(status.st_size),
      .modified_ns = std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec,
  };
}

}  // namespace

File File::open(const std::string& path, FileAccess wanted) {
  if (wanted == FileAccess::kDirect) {
    UniqueFd fd = open_with(path, O_DIRECT);
    if (fd && answers_direct_reads(fd.get())) return File(std::move(fd), path, FileAccess::kDirect);
  }
  UniqueFd fd = open_with(path, 0);
  if (!fd) throw error_from_errno(errno, "cannot open " + path);
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  return File(std::move(fd), path, FileAccess::kBuffered);
}

FileIdentity File::identity() const {
  struct stat status{};
  if (::fstat(fd(), &status) != 0) throw error_from_errno(errno, "cannot stat " + path_);
  return identity_from(status);
}

FileIdentity File::identity_of_path() const {
  struct stat status{};
  if (::stat(path_.c_str(), &status) != 0) throw error_from_errno(errno, "cannot stat " + path_);
  return identity_from(status);
}

void read_wholly(const File& file, std::uint64_t offset, std::span<std::byte> into) {
  read_wholly(file.fd(), file.path(), offset, into);
}

void read_wholly(int fd, const std::string& name, std::uint64_t offset, std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t count = ::pread(fd, into.data(), into.size(), static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) refuse_short(name, offset, into.size(), count < 0 ? errno : 0);
    into = into.subspan(static_cast<std::size_t>(count));
    offset += static_cast<std::uint64_t>(count);
  }
}

}  // namespace sllm
