#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sllm {

// What one load did and where its time went. A stage's busy and idle seconds are summed over its threads;
// waits are the reading thread's.
struct LoadReport {
  std::uint64_t bytes_read = 0;      // from files, the rounding to spans and blocks included
  std::uint64_t bytes_in_place = 0;  // of them, brought to where they belong without a copy of ours
  std::uint64_t bytes_cached = 0;    // of them, copied out of the page cache
  std::uint64_t bytes_mapped = 0;    // of them, mapped
  std::uint64_t bytes_verified = 0;
  std::uint64_t bytes_registered = 0;  // memory that the read queue's kernel side held on to
  std::uint64_t bytes_huge = 0;        // of fresh memory, faulted in with huge pages asked for
  std::uint64_t bytes_resident = 0;    // of bytes_read, taken from memory that had them
  std::uint64_t bytes_to_devices = 0;
  std::uint64_t bytes_staging = 0;  // memory between drive and target
  std::uint64_t bytes_pinned = 0;   // of it, pinned for the devices
  std::uint64_t reads = 0;
  std::uint64_t repeats = 0;       // reads that were short or interrupted
  std::uint64_t deepest = 0;       // the most extents that were in flight
  std::uint64_t direct_files = 0;  // read around the page cache
  std::uint64_t buffered_files = 0;
  std::uint64_t check_threads = 0;
  std::uint64_t prefault_threads = 0;
  std::uint64_t devices = 0;
  std::string queue = "none";  // what read from the drive, if anything did
  double total_s = 0;
  double read_wait_s = 0;   // nothing to do but to wait for the drive
  double fetch_s = 0;       // copying out of the page cache, or mapping its pages
  double check_wait_s = 0;  // reads held back, or all done, and verifying or copying was not
  double check_idle_s = 0;  // threads that fetch, verify and copy, waiting for something to do
  double verify_s = 0;
  double copy_s = 0;
  double prefault_s = 0;
  double device_s = 0;       // copies to devices were under way
  double device_wait_s = 0;  // everything else was done, and they were not
  double cpu_s = 0;          // of the whole process while the load ran
};

// A span whose bytes are not those that the manifest proves.
struct BadSpan {
  std::uint64_t file = 0;
  std::uint64_t span = 0;

  auto operator<=>(const BadSpan&) const = default;
};

}  // namespace sllm
