// A disk that an NBD server exports.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "devices/block/block_backend.h"
#include "devices/block/nbd/client.h"

namespace minivmm {

class NbdDisk final : public BlockBackend {
 public:
  struct Options {
    bool read_only = false;  // even if the server would let us write
    std::chrono::milliseconds reconnect_delay{0};
    bool uri_may_name_files = true;
    std::chrono::milliseconds connect_limit{10'000};
    std::chrono::milliseconds patience{60'000};  // ClientOptions::patience
  };
  // Throws HostError: no libnbd, no such server or export, less than a sector.
  static std::unique_ptr<NbdDisk> connect(const std::string& uri, const Options& options);
  // Over a connected socket; a connection that is lost stays lost. `name` is for errors.
  static std::unique_ptr<NbdDisk> connect(UniqueFd socket, const std::string& name, const Options& options);

  uint64_t capacity() const override { return capacity_; }
  bool read_only() const override { return read_only_; }
  BlockGeometry geometry() const override;
  std::string_view format() const override { return "nbd"; }
  // Whether a flush does anything: the server offers it.
  bool can_flush() const { return client_.info().can_flush; }

  Task<Result<void>> run(IoEngine&, BlockRequest) override;
  Task<Result<BlockExtent>> extent(IoEngine&, uint64_t offset, uint64_t length) override;
  Task<Result<void>> resize(IoEngine&, uint64_t capacity_bytes) override;
  Task<Result<void>> close(IoEngine&) override;

 private:
  NbdDisk(std::shared_ptr<const nbd::Library> library, std::unique_ptr<nbd::Connection> connection,
          nbd::ClientOptions options, bool read_only);
  Task<Result<void>> read(IoEngine&, BlockRequest);
  Task<Result<void>> write(IoEngine&, BlockRequest);
  Task<Result<void>> write_zeroes(IoEngine&, BlockRequest);
  Task<Result<void>> clear(IoEngine&, BlockRequest, nbd::Command::Kind);
  Task<Result<void>> flush(IoEngine&, const StopFlag*);
  std::optional<nbd::Extent> known_extent(uint64_t offset);
  bool aligned(const BlockRequest& request) const;

  nbd::Client client_;
  uint64_t capacity_;
  bool read_only_;
  // The server's last answer about what is where, if nothing can change it.
  std::mutex mutex_;
  uint64_t map_offset_ = 0;
  std::vector<nbd::Extent> map_;
};

}  // namespace minivmm
