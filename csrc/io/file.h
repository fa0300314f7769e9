#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/unique_handle.h"

namespace sllm {

// What tells one state of a file from another. A file that was replaced, truncated or written to differs.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;

  bool operator==(const FileIdentity&) const = default;
};

enum class FileAccess { kDirect, kBuffered };

// A file opened for reading, around the page cache where its file system allows that.
class File {
 public:
  // With kDirect, O_DIRECT is probed by opening and by one read, since some file systems refuse it only
  // there (virtiofs, FUSE); where it is refused the file is opened buffered and is_direct() is false.
  // Throws not_found, forbidden or io.
  static File open(const std::string& path, FileAccess wanted);

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  bool is_direct() const { return access_ == FileAccess::kDirect; }

  // Of the open file. Throws io.
  FileIdentity identity() const;
  // Of whatever has the file's path by now. Throws not_found or io.
  FileIdentity identity_of_path() const;

 private:
  File(UniqueFd fd, std::string path, FileAccess access)
      : fd_(std::move(fd)), path_(std::move(path)), access_(access) {}

  UniqueFd fd_;
  std::string path_;
  FileAccess access_;
};

// Reads all of `into` from a file that is not direct, waiting for it. Throws io, corrupt where the file ends.
void read_wholly(const File& file, std::uint64_t offset, std::span<std::byte> into);
// The same for a descriptor; `name` is for the error.
void read_wholly(int fd, const std::string& name, std::uint64_t offset, std::span<std::byte> into);

}  // namespace sllm
