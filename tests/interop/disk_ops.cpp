// Applies operations to a disk image by minivmm's block layer; tests/interop/run has qemu-io do the same.
//   disk_ops IMAGE [cache=none] < COMMANDS, a line each:
//     write OFFSET LENGTH BYTE | zero OFFSET LENGTH | unmap OFFSET LENGTH | discard OFFSET LENGTH | flush |
//     resize BYTES dump FILE      what a guest would read, to FILE
// Lines between "together" and "end" are in flight at the same time.
#include <fmt/format.h>

#include <deque>
#include <fstream>
#include <iostream>
#include <sstream>
#include <vector>

#include "devices/block/open_disk.h"

using namespace minivmm;  // NOLINT(google-build-using-namespace)

namespace {

struct Command {
  std::string verb;
  uint64_t offset = 0;
  uint64_t length = 0;
  unsigned byte = 0;
  std::vector<std::byte> data;
  iovec piece{};
};

Task<Result<void>> apply(BlockBackend& disk, IoEngine& engine, Command& command) {
  BlockRequest request{.offset = command.offset, .length = command.length};
  if (command.verb == "write") {
    command.data.assign(command.length, static_cast<std::byte>(command.byte));
    command.piece = {command.data.data(), command.data.size()};
    request.op = BlockOp::write;
    request.data = {&command.piece, 1};
  } else if (command.verb == "zero" || command.verb == "unmap") {
    request.op = BlockOp::write_zeroes;
    request.may_unmap = command.verb == "unmap";
  } else if (command.verb == "discard") {
    request.op = BlockOp::discard;
  } else if (command.verb == "flush") {
    request = {.op = BlockOp::flush};
  } else if (command.verb == "resize") {
    co_return co_await disk.resize(engine, command.offset);
  } else {
    co_return fail(Errc::invalid, "no such command");
  }
  co_return co_await disk.run(engine, request);
}

Result<void> dump(BlockBackend& disk, IoEngine& engine, const std::string& path) {
  std::ofstream file(path, std::ios::binary);
  std::vector<std::byte> bytes(1 << 20);
  for (uint64_t offset = 0; offset < disk.capacity(); offset += bytes.size()) {
    const uint64_t length = std::min<uint64_t>(bytes.size(), disk.capacity() - offset);
    iovec piece{bytes.data(), length};
    const BlockRequest request{.op = BlockOp::read, .offset = offset, .length = length, .data = {&piece, 1}};
    if (auto done = engine.run(disk.run(engine, request)); !done) return done;
    file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(length));
  }
  if (!file.flush()) return fail(Errc::io, "cannot write the dump");
  return {};
}

int run(const std::string& image, bool direct) {
  auto engine = IoEngine::create();
  OpenedDisk opened = open_image(*engine, image, {.cache = direct ? CacheMode::none : CacheMode::writeback});
  BlockBackend& disk = *opened.backend;
  std::deque<Command> together;
  bool gather = false;
  int failed = 0;
  std::string line;
  auto report = [&failed](const std::string& what, const Result<void>& result) {
    if (result) return;
    fmt::print(stderr, "{}: {}\n", what, result.error().what);
    ++failed;
  };
  while (std::getline(std::cin, line)) {
    std::istringstream words(line);
    Command command;
    std::string path;
    words >> command.verb;
    if (command.verb == "dump") {
      words >> path;
      report(line, dump(disk, *engine, path));
      continue;
    }
    if (command.verb == "together") {
      gather = true;
      continue;
    }
    if (command.verb == "end") {
      gather = false;
      size_t running = together.size();
      for (Command& each : together) {
        spawn(apply(disk, *engine, each), [&](Result<void> result) {
          report(each.verb, result);
          --running;
        });
      }
      while (running > 0) {
        if (engine->poll() == 0 && running > 0) engine->wait();
      }
      together.clear();
      continue;
    }
    words >> command.offset >> command.length >> command.byte;
    if (gather) {
      together.push_back(std::move(command));
    } else {
      report(line, engine->run(apply(disk, *engine, command)));
    }
  }
  report("close", opened.close(*engine));
  return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 2 || argc == 3) return run(argv[1], argc == 3 && std::string(argv[2]) == "cache=none");
  } catch (const std::exception& error) {
    fmt::print(stderr, "disk_ops: {}\n", error.what());
    return 1;
  }
  fmt::print(stderr, "disk_ops: IMAGE [cache=none] < COMMANDS\n");
  return 2;
}
