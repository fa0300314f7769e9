// Loading onto devices, over the simulated driver: every byte, the overlap, the bounds, and every fault.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/size.h"
#include "device/cuda_device.h"
#include "device/simulation.h"
#include "io/paced_queue.h"
#include "io/temporary_file.h"
#include "load/pipeline.h"
#include "memory/host_buffer.h"

namespace sllm {
namespace {

using testing::PacedQueue;
using testing::Simulation;
using testing::TemporaryFile;

constexpr std::uint64_t kMoved = 64;  // targets begin so far into their allocation

class DeviceLoad : public testing::SimulatedTest {
 protected:
  void SetUp() override {
    SimulatedTest::SetUp();
    options_.extent_bytes = kMiB;
    options_.depth = 4;
  }
  void TearDown() override {
    memory_.clear();
    devices_.clear();
    driver_.reset();
    SimulatedTest::TearDown();
  }

  void write_file(std::uint64_t bytes) {
    bytes_ = testing::random_bytes(bytes);
    on_disk_.emplace(bytes_);
    PlannedFile file{.path = on_disk_->path(), .identity = {}, .span_crcs = {}, .resident = {}};
    file.identity = File::open(file.path, FileAccess::kBuffered).identity();
    for (std::size_t at = 0; at < bytes_.size(); at += kSpanBytes) {
      file.span_crcs.push_back(
          crc32c(std::span(bytes_).subspan(at, std::min<std::size_t>(kSpanBytes, bytes_.size() - at))));
    }
    plan_ = {.files = {file}, .extents = {}, .target_bytes = {}};
    testing::evict(on_disk_->path());
  }

  // The file's bytes from `begin` up to `end` onto a device.
  void want(std::uint64_t begin, std::uint64_t end) {
    plan_.extents.push_back({0, begin, end - begin, plan_.target_bytes.size(), kMoved});
    plan_.target_bytes.push_back(kMoved + end - begin);
  }

  void allocate(int devices = 1) {
    if (driver_ == nullptr) driver_ = CudaDriver::load(CUDA_SIM_LIBRARY);
    for (std::size_t i = 0; i < plan_.target_bytes.size(); ++i) {
      if (static_cast<int>(devices_.size()) < devices) {
        devices_.push_back(std::make_shared<CudaDevice>(driver_, static_cast<int>(devices_.size())));
      }
      memory_.push_back(
          devices_[i % devices_.size()]->allocate(plan_.target_bytes[i], AllocationKind::kPlain));
    }
  }

  LoadReport run(const Interrupt& interrupt = [] {}) {
    std::vector<Target> targets;
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      targets.push_back({.device = devices_[i % devices_.size()].get(),
                         .start = memory_[i]->address(),
                         .bytes = plan_.target_bytes[i]});
    }
    return load(plan_, targets, options_, interrupt);
  }

  std::vector<std::byte> on_device(std::size_t target) {
    std::vector<std::byte> bytes(plan_.target_bytes[target]);
    const auto stream = devices_[target % devices_.size()]->make_stream();
    stream->copy_out(bytes, memory_[target]->address());
    stream->finish();
    return bytes;
  }

  bool is_delivered() {
    return std::all_of(plan_.extents.begin(), plan_.extents.end(), [this](const Extent& extent) {
      const auto found = on_device(extent.target);
      const std::uint64_t row_bytes = extent.is_rows() ? extent.row_bytes : extent.bytes;
      for (std::uint64_t row = 0; row < extent.rows(); ++row) {
        const auto* expected = bytes_.data() + extent.offset + row * extent.from_pitch;
        if (!std::equal(expected, expected + row_bytes,
                        found.data() + extent.destination + row * extent.to_pitch)) {
          return false;
        }
      }
      return true;
    });
  }

  void pace_drive(double bytes_per_s) {
    options_.queue = [bytes_per_s](unsigned depth, int fd) {
      return std::make_unique<PacedQueue>(make_read_queue(QueueKind::kAuto, depth, fd), bytes_per_s);
    };
  }

  // The quickest of three, since neighbours may take the machine away.
  double quickest_s() {
    double quickest = 1e9;
    for (int i = 0; i < 3; ++i) quickest = std::min(quickest, run().total_s);
    return quickest;
  }

  std::vector<std::byte> bytes_;
  std::optional<TemporaryFile> on_disk_;
  LoadPlan plan_;
  LoadOptions options_;
  std::vector<std::shared_ptr<Device>> devices_;
  std::vector<std::unique_ptr<DeviceMemory>> memory_;
};

TEST_F(DeviceLoad, DeliversAndVerifiesEveryByteThroughPinnedMemory) {
  write_file(9 * kMiB + 777);
  want(100, 9 * kMiB + 777);
  allocate();
  for (const QueueKind kind : {QueueKind::kAuto, QueueKind::kThreaded}) {
    options_.queue = queue_factory(kind);
    simulation_.configure("devices=1");
    const LoadReport report = run();
    EXPECT_EQ(simulation_.count("pageable_copies"), 0);
    EXPECT_TRUE(is_delivered());
    EXPECT_EQ(report.bytes_verified, bytes_.size());
    EXPECT_EQ(report.bytes_to_devices, bytes_.size() - 100);
    EXPECT_EQ(report.bytes_pinned, report.bytes_staging);
    EXPECT_GT(report.device_s, 0);
  }
}

TEST_F(DeviceLoad, TakesFromThePageCacheWhatItHas) {
  write_file(5 * kMiB);
  want(0, 5 * kMiB);
  allocate();
  testing::read_once(on_disk_->path());
  for (const CacheUse cache : {CacheUse::kCopy, CacheUse::kMapCached, CacheUse::kMap}) {
    options_.cache = cache;
    EXPECT_EQ(run().bytes_cached, bytes_.size());
    EXPECT_TRUE(is_delivered());
  }
}

TEST_F(DeviceLoad, CopiesResidentBytesFromWhereTheyAreAndVerifiesThemNoSecondTime) {
  write_file(5 * kMiB + 3);
  want(1, 5 * kMiB + 3);
  allocate();
  const auto resident = HostBuffer::allocate(bytes_.size());
  std::copy(bytes_.begin(), bytes_.end(), resident->bytes().begin());
  const auto pin = devices_[0]->register_host(resident->bytes());
  plan_.files[0].resident = resident->bytes();
  plan_.files[0].span_crcs.clear();
  plan_.files[0].path = "nowhere";
  const LoadReport report = run();
  EXPECT_EQ(simulation_.count("pageable_copies"), 0);
  EXPECT_TRUE(is_delivered());
  EXPECT_EQ(report.bytes_resident, bytes_.size());
  EXPECT_EQ(report.bytes_verified, 0U);
  EXPECT_EQ(report.bytes_staging, 0U);
  EXPECT_EQ(report.queue, "none");
}

TEST_F(DeviceLoad, CutsColumnsOutWithTheCopyEngine) {
  write_file(4 * kMiB);
  // Rows of 1000 bytes, of which each of four ranks has a quarter.
  for (std::uint64_t rank = 0; rank < 4; ++rank) {
    plan_.extents.push_back({.offset = 4096 + 250 * rank,
                             .bytes = 3999 * 1000 + 250,
                             .target = rank,
                             .row_bytes = 250,
                             .from_pitch = 1000,
                             .to_pitch = 250});
    plan_.target_bytes.push_back(4000 * 250);
  }
  allocate(2);
  const LoadReport report = run();
  EXPECT_TRUE(is_delivered());
  EXPECT_EQ(report.bytes_read, bytes_.size());
  EXPECT_EQ(report.bytes_to_devices, 4000U * 1000);
  EXPECT_EQ(report.devices, 2U);
  EXPECT_EQ(simulation_.count("h2d_bytes.0"), 4000 * 500);
}

TEST_F(DeviceLoad, ReadsAnExtentOnceThatTwoDevicesWant) {
  write_file(6 * kMiB);
  want(0, 6 * kMiB);
  want(0, 6 * kMiB);
  allocate(2);
  EXPECT_EQ(run().bytes_read, bytes_.size());
  EXPECT_TRUE(is_delivered());
}

TEST_F(DeviceLoad, LoadsOntoTheHostAndADeviceAtOnce) {
  write_file(6 * kMiB);
  want(0, 3 * kMiB);
  allocate();
  const auto host = HostBuffer::allocate(4 * kMiB);
  plan_.extents.push_back({0, 2 * kMiB, 4 * kMiB, 1, 0});
  plan_.target_bytes.push_back(4 * kMiB);
  const std::vector<Target> targets{
      {.device = devices_[0].get(), .start = memory_[0]->address(), .bytes = plan_.target_bytes[0]},
      Target::in_host(host->bytes())};
  const LoadReport report = load(plan_, targets, options_, [] {});
  EXPECT_EQ(report.bytes_read, bytes_.size());
  EXPECT_GT(report.bytes_in_place, 0U);
  EXPECT_TRUE(std::equal(host->bytes().begin(), host->bytes().end(), bytes_.begin() + 2 * kMiB));
  plan_.extents.pop_back();
  EXPECT_TRUE(is_delivered());
}

TEST_F(DeviceLoad, OverlapsTheDriveWithTheDevice) {
  constexpr double kRate = 100e6;
  write_file(64 * kMiB);
  want(0, 64 * kMiB);
  simulation_.configure("devices=1,populate=1,h2d=100e6");
  allocate();
  pace_drive(kRate);
  EXPECT_LE(quickest_s(), 1.1 * 64 * kMiB / kRate);
  EXPECT_TRUE(is_delivered());
}

TEST_F(DeviceLoad, OverlapsTwoDevicesOfHalfTheRateWithTheDrive) {
  constexpr double kRate = 100e6;
  write_file(64 * kMiB);
  want(0, 32 * kMiB);
  want(32 * kMiB, 64 * kMiB);
  simulation_.configure("devices=2,populate=1,h2d=50e6");
  allocate(2);
  // The halves one behind the other would keep one device idle, so they are interleaved, as layers would be.
  plan_.extents.clear();
  for (std::uint64_t at = 0; at < 64; ++at) {
    plan_.extents.push_back({0, at * kMiB, kMiB, at % 2, kMoved + at / 2 * kMiB});
  }
  pace_drive(kRate);
  EXPECT_LE(quickest_s(), 1.1 * 64 * kMiB / kRate);
  EXPECT_TRUE(is_delivered());
}

TEST_F(DeviceLoad, KeepsStagingWithinItsBound) {
  write_file(40 * kMiB);
  want(0, 40 * kMiB);
  simulation_.configure("devices=1,h2d=200e6");
  allocate();
  options_.staging_bytes = 3 * kMiB;
  const LoadReport report = run();
  EXPECT_TRUE(is_delivered());
  EXPECT_LE(report.bytes_staging, 3 * kMiB);
  EXPECT_LE(simulation_.count("most_registered_bytes"), 3 * static_cast<long long>(kMiB));
}

TEST_F(DeviceLoad, MakesDoWithLessPinnedMemoryThanItWanted) {
  write_file(12 * kMiB);
  want(0, 12 * kMiB);
  simulation_.configure("devices=1,register_limit=3MiB");
  allocate();
  const LoadReport some = run();
  EXPECT_EQ(simulation_.count("pageable_copies"), 0);
  EXPECT_TRUE(is_delivered());
  EXPECT_EQ(some.bytes_pinned, 3 * kMiB);
  EXPECT_EQ(some.bytes_staging, 3 * kMiB);
  simulation_.configure("devices=1,register_limit=4KiB");
  const LoadReport none = run();
  EXPECT_GT(simulation_.count("pageable_copies"), 0);
  EXPECT_TRUE(is_delivered());
  EXPECT_EQ(none.bytes_pinned, 0U);
}

// The fault matrix. After each fault: the right error, nothing left, and a load that works.
class DeviceLoadFaults : public DeviceLoad {
 protected:
  void SetUp() override {
    DeviceLoad::SetUp();
    write_file(6 * kMiB + 50);
    want(10, 6 * kMiB + 50);
  }

  // Everything from the driver on, and all of it gone again.
  bool attempt(const std::string& settings, const Interrupt& interrupt = [] {}) {
    memory_.clear();
    devices_.clear();
    driver_.reset();
    simulation_.configure(settings);
    const auto threads = testing::running_threads();
    const auto descriptors = testing::open_descriptors();
    bool is_whole = false;
    try {
      driver_ = CudaDriver::load(CUDA_SIM_LIBRARY);
      allocate();
      run(interrupt);
      is_whole = true;
    } catch (const Error& error) {
      codes_.push_back(error.code());
      text_ = error.what();
    }
    memory_.clear();
    devices_.clear();
    driver_.reset();
    simulation_.expect_clean();
    EXPECT_TRUE(testing::threads_come_down_to(threads)) << settings;
    EXPECT_EQ(testing::open_descriptors(), descriptors) << settings;
    return is_whole;
  }

  void expect_works_again() {
    EXPECT_TRUE(attempt("devices=1"));
    allocate();
    run();
    EXPECT_TRUE(is_delivered());
  }

  std::vector<ErrorCode> codes_;
  std::string text_;
};

TEST_F(DeviceLoadFaults, EndsWithTheRightErrorWhereverTheDriverFails) {
  ASSERT_TRUE(attempt("devices=1"));
  const long long calls = simulation_.count("calls");
  ASSERT_GT(calls, 20);
  for (long long n = 0; n < calls; ++n) {
    attempt("devices=1,fail=*:" + std::to_string(n) + ":719");
  }
  EXPECT_GT(codes_.size(), 10U);
  for (const ErrorCode code : codes_) {
    EXPECT_TRUE(code == ErrorCode::kDevice || code == ErrorCode::kUnsupported) << name_of(code);
  }
  expect_works_again();
}

TEST_F(DeviceLoadFaults, EndsWithADeviceErrorWhereverACopyFails) {
  for (int n = 0; n < 7; ++n) {
    EXPECT_FALSE(attempt("devices=1,fail=copy:" + std::to_string(n) + ":719"));
    EXPECT_EQ(codes_.back(), ErrorCode::kDevice);
  }
  expect_works_again();
}

TEST_F(DeviceLoadFaults, EndsWithAnErrorWheneverTheDeviceDisappears) {
  ASSERT_TRUE(attempt("devices=1"));
  const long long calls = simulation_.count("calls");
  for (long long n = 0; n < calls; n += 3) attempt("devices=1,lost=" + std::to_string(n));
  EXPECT_GT(codes_.size(), 5U);
  expect_works_again();
}

TEST_F(DeviceLoadFaults, SaysHowMuchMemoryWasWantedAndFree) {
  EXPECT_FALSE(attempt("devices=1,memory=2MiB"));
  EXPECT_EQ(codes_.back(), ErrorCode::kExhausted);
  EXPECT_NE(text_.find(std::to_string(plan_.target_bytes[0])), std::string::npos) << text_;
  EXPECT_NE(text_.find("2097152 free"), std::string::npos) << text_;
  expect_works_again();
}

TEST_F(DeviceLoadFaults, EndsAtEveryInterruptionWithCopiesUnderWay) {
  for (int at = 0; at < 6; ++at) {
    int calls = 0;
    EXPECT_FALSE(attempt("devices=1,h2d=20e6", [&] {
      if (calls++ == at) throw Error(ErrorCode::kCancelled, "enough");
    }));
    EXPECT_EQ(codes_.back(), ErrorCode::kCancelled);
  }
  expect_works_again();
}

TEST_F(DeviceLoadFaults, CopiesNoDamagedSpanThatItDoesNotReport) {
  plan_.files[0].span_crcs[3] ^= 1;
  EXPECT_FALSE(attempt("devices=1"));
  EXPECT_EQ(codes_.back(), ErrorCode::kCorrupt);
  plan_.files[0].span_crcs[3] ^= 1;
  expect_works_again();
}

}  // namespace
}  // namespace sllm
