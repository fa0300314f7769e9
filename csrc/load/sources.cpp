#include "load/sources.h"

#include <algorithm>

#include "base/error.h"
#include "io/residency.h"
#include "memory/file_mapping.h"

namespace sllm {
namespace {

[[noreturn]] void refuse_changed(const File& file) {
  throw Error(ErrorCode::kCorrupt, file.path() + " changed while it was being loaded; load it again");
}

File open_planned(const PlannedFile& planned, FileAccess access) {
  File file = File::open(planned.path, access);
  if (file.identity() != planned.identity) refuse_changed(file);
  return file;
}

}  // namespace

Sources::Sources(const LoadPlan& plan, const Schedule& schedule, const Wish& wish)
    : cached_(plan.files.size()), is_read_(plan.files.size()) {
  files_.reserve(plan.files.size());
  for (const PlannedFile& planned : plan.files) {
    files_.emplace_back();
    if (planned.resident.empty()) files_.back() = open_planned(planned, wish.access);
    const bool may_map = wish.cache == CacheUse::kMap || wish.cache == CacheUse::kMapCached;
    is_mappable_.push_back(may_map && files_.back() && can_map(files_.back()->fd()));
  }
  fetches_.reserve(schedule.reads.size());
  for (const PlannedRead& read : schedule.reads) {
    fetches_.push_back(files_[read.file] ? choose(read, wish.cache) : Fetch::kResident);
    if (fetches_.back() == Fetch::kRead) is_read_[read.file] = true;
    if (fetches_.back() == Fetch::kCopied && !cached_[read.file]) {
      cached_[read.file] = open_planned(plan.files[read.file], FileAccess::kBuffered);
    }
  }
}

Fetch Sources::choose(const PlannedRead& read, CacheUse cache) const {
  if (cache == CacheUse::kNone) return Fetch::kRead;
  const bool can_be_mapped = read.in_place && is_mappable_[read.file];
  if (cache == CacheUse::kMap && can_be_mapped) return Fetch::kMapped;
  if (!is_cached(files_[read.file]->fd(), read.offset, read.bytes)) return Fetch::kRead;
  return cache == CacheUse::kMapCached && can_be_mapped ? Fetch::kMapped : Fetch::kCopied;
}

std::vector<int> Sources::fds_to_read() const {
  std::vector<int> fds;
  for (std::size_t i = 0; i < files_.size(); ++i) {
    if (is_read_[i]) fds.push_back(files_[i]->fd());
  }
  return fds;
}

std::size_t Sources::count(FileAccess access) const {
  return static_cast<std::size_t>(std::count_if(files_.begin(), files_.end(), [access](const auto& file) {
    return file && file->is_direct() == (access == FileAccess::kDirect);
  }));
}

std::size_t Sources::count(Fetch fetch) const {
  return static_cast<std::size_t>(std::count(fetches_.begin(), fetches_.end(), fetch));
}

void Sources::check_unchanged(const LoadPlan& plan, std::uint64_t number) const {
  if (files_[number] && files_[number]->identity() != plan.files[number].identity) {
    refuse_changed(*files_[number]);
  }
}

void Sources::check_unchanged(const LoadPlan& plan) const {
  for (std::size_t i = 0; i < files_.size(); ++i) {
    // The path too: a file that was replaced still reads as it was, but its neighbours may not.
    if (!files_[i]) continue;
    const FileIdentity& planned = plan.files[i].identity;
    if (files_[i]->identity() != planned || files_[i]->identity_of_path() != planned)
      refuse_changed(*files_[i]);
  }
}

}  // namespace sllm
