#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "io/extent_reader.h"
#include "io/read_queue.h"
#include "load/checker.h"
#include "load/landing.h"
#include "load/options.h"
#include "load/report.h"
#include "load/sources.h"
#include "load/staging.h"
#include "memory/populator.h"
#include "memory/prefaulter.h"

namespace sllm {

// One load under way: what its stages share, and the loop that drives them (pipeline.h has the protocol).
// Used by one thread. Its end, wherever it comes, leaves no read and no copy in flight and no thread behind.
class Run {
 public:
  Run(const Checker::Work& work, const LoadOptions& options, const Interrupt& interrupt);

  void read_all();
  // Waits for the last check and the last copy, and that the files are as they were.
  void finish();
  LoadReport report() const;
  std::vector<BadSpan> bad_spans() const { return checker_->bad_spans(); }

 private:
  Checker::Work with_landed(const Checker::Work& work, const OnLanded& on_landed) const;
  void make_staging(const LoadOptions& options);
  void prepare_queue();
  std::unique_ptr<ReadQueue> make_queue(const LoadOptions& options) const;
  unsigned check_threads(const LoadOptions& options) const;
  Device* first_device() const;
  std::size_t staged_reads() const;
  bool is_staged(std::size_t index) const;
  std::vector<std::span<std::byte>> pieces_to_read() const;
  void map_all();
  std::byte* place_of(const PlannedRead& read) const;
  std::size_t in_flight() const { return reader_ ? reader_->in_flight() : 0; }
  bool may_start(std::size_t index) const;
  bool start(std::size_t index);
  void wait_for_slot();
  void collect();
  void hand_over(FinishedRead& reading);

  const LoadPlan& plan_;
  const Schedule& schedule_;
  std::span<const Target> targets_;
  const Interrupt& interrupt_;
  bool follows_landing_;
  LoadReport report_;
  Populator* populator_;  // null where no target is fresh
  std::size_t landing_in_place_ = 0;

  // Destroyed from the last to the first: the reader drains before the memory and the files that it reads go,
  // the checker stops before the landing waits for its copies, and those are over before their slots go.
  Sources sources_;
  std::optional<StagingPool> staging_;
  std::unique_ptr<ReadQueue> queue_;
  Landing landing_;
  std::optional<Checker> checker_;
  std::vector<FinishedRead> reading_;
  std::optional<Prefaulter> prefaulter_;
  std::optional<ExtentReader> reader_;
};

}  // namespace sllm
