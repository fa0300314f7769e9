#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "io/faulty_queue.h"
#include "memory/populate.h"
#include "store/stored_bytes.h"

namespace sllm {
namespace {

using testing::expect_error;
using testing::Fault;
using testing::FaultyQueue;
using testing::kChunk;
using testing::resident_bytes;
using testing::StoredBytes;
using testing::TemporaryFile;

void never() {}

class FillingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    model_.add_to(store_);
    for (const auto& bytes : model_.files) {
      on_disk_.push_back(std::make_unique<TemporaryFile>(bytes));
      planned_.push_back({.path = on_disk_.back()->path(),
                          .identity = File::open(on_disk_.back()->path(), FileAccess::kBuffered).identity(),
                          .span_crcs = {},
                          .resident = {}});
    }
    options_.extent_bytes = kMiB;
    options_.depth = 4;
  }

  LoadReport fill(Reservation& reservation, const Interrupt& interrupt = never) {
    reservation.claim();
    return reservation.fill(planned_, options_, interrupt);
  }

  void expect_filled(Reservation& reservation) {
    EXPECT_TRUE(reservation.is_complete());
    EXPECT_TRUE(model_.equals(store_.pool().memory(), reservation.pieces()));
  }

  // A fill fails so, and leaves a store in which the next one does not.
  void expect_failure(ErrorCode code, const std::string& text, const Interrupt& interrupt = never) {
    const auto failed = store_.status().failed_fills;
    const auto threads = testing::running_threads();
    const auto descriptors = testing::open_descriptors();
    {
      const auto reservation = model_.reserve(store_);
      const auto waiting = model_.reserve(store_);
      expect_error(code, text, [&] { fill(*reservation, interrupt); });
      EXPECT_EQ(store_.status().filling_bytes, 0U);
      EXPECT_TRUE(equals_where_resident());
      // What was abandoned, and all of that, the other one may claim.
      std::uint64_t claimed = 0;
      for (const PooledPiece& piece : waiting->claim()) claimed += piece.bytes;
      EXPECT_EQ(claimed, waiting->bytes() - waiting->resident_bytes());
    }
    EXPECT_GT(store_.status().failed_fills, failed);
    EXPECT_TRUE(testing::threads_come_down_to(threads));
    EXPECT_EQ(testing::open_descriptors(), descriptors);
    store_.evict(model_.number);
    EXPECT_EQ(store_.status().free_bytes, store_.status().pool_bytes);
  }

  bool equals_where_resident() {
    for (const FileRange& range : model_.all()) {
      for (std::uint64_t begin = 0; begin < range.end; begin += kChunk) {
        const FileRange part{range.file, begin, std::min(begin + kChunk, range.end)};
        const auto held = store_.reserve(model_.number, std::vector<FileRange>{part});
        if (held->is_complete() && !model_.equals(store_.pool().memory(), held->pieces())) return false;
      }
    }
    return true;
  }

  void fail_at(Fault fault, std::size_t at) {
    options_.queue = [fault, at](unsigned depth, int fd) {
      return std::make_unique<FaultyQueue>(make_read_queue(QueueKind::kAuto, depth, fd), fault, at);
    };
  }

  void overwrite(std::uint64_t file, std::uint64_t offset, std::byte with) {
    std::fstream stream(on_disk_[file]->path(), std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(static_cast<long>(offset));
    stream.put(static_cast<char>(with));
  }

  void identify_again() {
    for (PlannedFile& file : planned_)
      file.identity = File::open(file.path, FileAccess::kBuffered).identity();
  }

  static constexpr std::size_t kReads = 11;
  Store store_{{.pool_bytes = 4 * kChunk, .chunk_bytes = kChunk}};
  StoredBytes model_{{kChunk + 2 * kMiB + 9, 3 * kMiB + 4097}};
  std::vector<std::unique_ptr<TemporaryFile>> on_disk_;
  std::vector<PlannedFile> planned_;
  LoadOptions options_;
};

TEST_F(FillingTest, BringsFilesFromTheDriveOrThePageCache) {
  for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy}) {
    options_.cache = cache;
    auto reservation = model_.reserve(store_);
    const LoadReport report = fill(*reservation);
    expect_filled(*reservation);
    EXPECT_EQ(report.bytes_read, reservation->bytes());
    EXPECT_EQ(report.bytes_verified, reservation->bytes());
    EXPECT_GT(report.bytes_in_place, reservation->bytes() / 2);
    EXPECT_GE(store_.status().touched_bytes, reservation->bytes());
    reservation.reset();
    EXPECT_EQ(store_.evict(model_.number), report.bytes_read);
  }
}

TEST_F(FillingTest, BringsFilesThatHaveNoCrcs) {
  StoredBytes unproved = model_;
  unproved.add_to(store_, 0, false);
  for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy}) {
    options_.cache = cache;
    const auto reservation = unproved.reserve(store_);
    EXPECT_EQ(fill(*reservation).bytes_verified, 0U);
    expect_filled(*reservation);
  }
}

TEST_F(FillingTest, BringsPartsThatLieInSeveralPieces) {
  for (const bool is_proved : {true, false}) {
    StoredBytes model = model_;
    model.add_to(store_, 0, is_proved);
    const auto packed_first = store_.reserve(model.number, std::vector<FileRange>{{1, 0, 1}});
    const auto all = model.reserve(store_);
    EXPECT_EQ(all->pieces().size(), 4U);
    const LoadReport report = fill(*all);
    EXPECT_LT(report.bytes_in_place, report.bytes_read);
    expect_filled(*all);
    store_.retire(model.number);
  }
}

TEST_F(FillingTest, ReadsOnlyWhatIsMissing) {
  const auto head = store_.reserve(model_.number, std::vector<FileRange>{{0, 5, 6}});
  EXPECT_EQ(fill(*head).bytes_read, kChunk);
  const auto all = model_.reserve(store_);
  EXPECT_EQ(fill(*all).bytes_read, all->bytes() - kChunk);
  expect_filled(*all);
  EXPECT_EQ(fill(*all).bytes_read, 0U);
}

TEST_F(FillingTest, ChecksAgainstTheFilesOwnCrcsWhereTheStoreKnowsNone) {
  StoredBytes unproved = model_;
  unproved.add_to(store_, 0, false);
  planned_[1].span_crcs = testing::crcs_of(model_.files[1]);
  const auto reservation = unproved.reserve(store_);
  EXPECT_EQ(fill(*reservation).bytes_verified, model_.files[1].size());
}

// Each look for an interruption comes before a read: at the eighth, the first part has been read.
TEST_F(FillingTest, LetsAnotherSeePartsAsTheyCome) {
  options_.depth = 1;
  const auto one = model_.reserve(store_);
  const auto other = model_.reserve(store_);
  int looks = 0;
  fill(*one, [&] {
    if (++looks != 8) return;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (other->resident_bytes() == 0 && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(other->resident_bytes(), kChunk);
  });
  EXPECT_GE(looks, 8);
  expect_filled(*other);
}

TEST_F(FillingTest, LetsNobodyClaimWhatItIsBringing) {
  options_.depth = 1;
  const auto one = model_.reserve(store_);
  const auto other = model_.reserve(store_);
  fill(*one, [&] {
    one->abandon();
    EXPECT_TRUE(other->claim().empty());
  });
  expect_filled(*other);
}

TEST_F(FillingTest, SharesOneLoadAmongThreads) {
  std::vector<std::jthread> threads;
  std::atomic<std::uint64_t> read = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      const auto reservation = model_.reserve(store_);
      read += fill(*reservation).bytes_read;
      while (!reservation->is_complete()) std::this_thread::yield();
      EXPECT_TRUE(model_.equals(store_.pool().memory(), reservation->pieces()));
    });
  }
  threads.clear();
  EXPECT_EQ(read, model_.files[0].size() + model_.files[1].size());
}

TEST_F(FillingTest, FailsCleanlyWhereverTheDriveFails) {
  for (std::size_t at = 0; at < kReads; ++at) {
    fail_at(Fault::kIoError, at);
    expect_failure(ErrorCode::kIo, "cannot read");
    fail_at(Fault::kEndOfFile, at);
    expect_failure(ErrorCode::kCorrupt, "the file ends at");
  }
  fail_at(Fault::kNone, 0);
  const auto reservation = model_.reserve(store_);
  fill(*reservation);
  expect_filled(*reservation);
}

TEST_F(FillingTest, SurvivesShortReadsAndInterruptions) {
  for (const Fault fault : {Fault::kShort, Fault::kInterrupted, Fault::kStall}) {
    for (std::size_t at = 0; at < kReads; ++at) {
      fail_at(fault, at);
      const auto reservation = model_.reserve(store_);
      fill(*reservation);
      expect_filled(*reservation);
    }
    store_.evict(model_.number);
  }
}

TEST_F(FillingTest, NeverLetsACorruptSpanBecomeResident) {
  for (const std::uint64_t at : {std::uint64_t{0}, kChunk - 1, kChunk + 2 * kMiB}) {
    overwrite(0, at, model_.files[0][at] ^ std::byte{1});
    identify_again();
    for (const CacheUse cache : {CacheUse::kNone, CacheUse::kCopy}) {
      options_.cache = cache;
      expect_failure(ErrorCode::kCorrupt, "is damaged");
    }
    overwrite(0, at, model_.files[0][at]);
  }
}

TEST_F(FillingTest, RefusesAFileThatIsTruncatedOrReplacedMeanwhile) {
  expect_failure(ErrorCode::kCorrupt, on_disk_[0]->path(),
                 [&] { std::filesystem::resize_file(on_disk_[0]->path(), kMiB + 5); });
  std::ofstream(on_disk_[0]->path(), std::ios::binary)
      .write(reinterpret_cast<const char*>(model_.files[0].data()),
             static_cast<long>(model_.files[0].size()));
  identify_again();
  bool is_replaced = false;
  expect_failure(ErrorCode::kCorrupt, "changed while it was being loaded", [&] {
    if (std::exchange(is_replaced, true)) return;
    std::filesystem::copy_file(on_disk_[0]->path(), on_disk_[0]->path() + ".copy");
    std::filesystem::rename(on_disk_[0]->path() + ".copy", on_disk_[0]->path());
  });
}

// Without CRCs nothing else tells: no byte that was read after the change may become resident.
TEST_F(FillingTest, LetsNothingOfAFileThatChangesBecomeResidentUnproved) {
  StoredBytes unproved = model_;
  unproved.add_to(store_, 0, false);
  std::swap(model_, unproved);
  expect_failure(ErrorCode::kCorrupt, "changed while it was being loaded", [&] {
    for (std::uint64_t at = 0; at < model_.files[0].size(); at += kMiB) overwrite(0, at, std::byte{0x5A});
  });
}

TEST_F(FillingTest, EndsAtEveryInterruption) {
  options_.depth = 1;
  for (int at = 0; at < static_cast<int>(kReads); ++at) {
    int calls = 0;
    expect_failure(ErrorCode::kCancelled, "enough", [&] {
      if (calls++ == at) throw Error(ErrorCode::kCancelled, "enough");
    });
  }
}

TEST_F(FillingTest, RefusesToMapFilesOverThePoolAndFilesThatAreNotTheCheckpoints) {
  options_.cache = CacheUse::kMapCached;
  expect_failure(ErrorCode::kInvalid, "cannot map a file");
  options_.cache = CacheUse::kNone;
  planned_[0].identity.bytes -= 1;
  expect_failure(ErrorCode::kInvalid, "the store knows of");
  planned_.pop_back();
  expect_failure(ErrorCode::kInvalid, "1 files for a checkpoint of 2");
}

TEST_F(FillingTest, FaultsInOnlyWhatWasNeverTouched) {
  auto reservation = model_.reserve(store_);
  const LoadReport first = fill(*reservation);
  reservation.reset();
  store_.evict(model_.number);
  reservation = model_.reserve(store_);
  const LoadReport second = fill(*reservation);
  EXPECT_EQ(first.prefault_threads, 1U);
  EXPECT_EQ(second.prefault_threads, 0U);
}

TEST_F(FillingTest, IsNotDisturbedByWarming) {
  store_.start_warming();
  store_.start_warming();
  const auto reservation = model_.reserve(store_);
  fill(*reservation);
  expect_filled(*reservation);
  while (store_.status().touched_bytes < store_.status().pool_bytes && can_populate())
    std::this_thread::yield();
  expect_filled(*reservation);
}

TEST_F(FillingTest, SaysWhichFileIsMissing) {
  planned_[1].path += ".gone";
  expect_failure(ErrorCode::kNotFound, ".gone");
}

}  // namespace
}  // namespace sllm
