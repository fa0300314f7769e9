#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "io/file.h"
#include "load/checker.h"
#include "load/plan.h"
#include "load/schedule.h"

namespace sllm {

// What to do with bytes that the page cache may have.
enum class CacheUse {
  kNone,       // read around it, always
  kCopy,       // copy what it has, read the rest
  kMapCached,  // map what it has into the destination, read the rest
  kMap,        // map everything, resident or not
};

// The files of a plan, open and in the state that the plan was made from, and where each read's bytes come
// from. A resident file is not opened. Immutable once made.
class Sources {
 public:
  struct Wish {
    FileAccess access;
    CacheUse cache;
  };

  // Throws not_found, forbidden, io, and corrupt for a file in another state.
  Sources(const LoadPlan& plan, const Schedule& schedule, const Wish& wish);

  const File& file(std::uint64_t number) const { return *files_[number]; }
  // How many of the open files are read so.
  std::size_t count(FileAccess access) const;
  // The file opened through the page cache; only of one that has kCopied reads.
  const File& cached(std::uint64_t number) const { return *cached_[number]; }
  Fetch fetch_of(std::size_t read) const { return fetches_[read]; }
  // Of the files that the drive is asked for.
  std::vector<int> fds_to_read() const;
  // How many reads get their bytes so.
  std::size_t count(Fetch fetch) const;

  // Throws corrupt if a file, or what has its path by now, is not as it was planned.
  void check_unchanged(const LoadPlan& plan) const;
  // Of one open file alone, whatever has its path.
  void check_unchanged(const LoadPlan& plan, std::uint64_t number) const;

 private:
  Fetch choose(const PlannedRead& read, CacheUse cache) const;

  std::vector<std::optional<File>> files_;
  std::vector<bool> is_mappable_;
  std::vector<std::optional<File>> cached_;
  std::vector<bool> is_read_;
  std::vector<Fetch> fetches_;
};

}  // namespace sllm
