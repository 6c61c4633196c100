// A server's export, whoever uses it: commands from any number of engines go through one connection, on a
// thread of its own. When the connection is lost it is made anew, and what was in flight is sent again.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "devices/block/nbd/command.h"
#include "devices/block/nbd/connection.h"
#include "devices/block/nbd/reconnect.h"
#include "vmm/core/fd.h"

namespace minivmm::nbd {

struct ClientOptions {
  Endpoint endpoint;  // no URI: a lost connection stays lost
  // How long commands wait for a lost connection to come back before they end with Errc::io.
  std::chrono::milliseconds reconnect_delay{0};
  // How long a command is waited for whose request has no StopFlag.
  std::chrono::milliseconds patience{60'000};
};

class Client {
 public:
  // Throws HostError: no thread or descriptor left.
  Client(std::shared_ptr<const Library> library, std::unique_ptr<Connection> connection,
         ClientOptions options);
  ~Client();  // with nobody waiting
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Of the first connection; a later one that differs in size, or can do less, is not used.
  const ExportInfo& info() const { return info_; }

  // Errc::closed once command->stop says give_up(); Errc::io, Errc::no_space, Errc::unsupported: the
  // server's answer, or there is no server; a flush fails for ever once a connection was lost that had been
  // told of changes which were not flushed.
  Command::Waiter run(IoEngine& engine, std::shared_ptr<Command> command);

 private:
  friend struct Command::Waiter;
  friend int on_completed(void* user, int* error);

  void take(std::shared_ptr<Command> command);  // any thread
  // From here on: the client's thread.
  void serve();
  void take_incoming();
  void give_up_late();
  void issue();
  bool issue(Command& command);
  bool overtakes_given_up(const Command& command) const;
  void reap();
  void end(Command& command);
  void finish(Command& command, Result<void> result);
  void lose_connection();
  void fail_waiting();
  void look_for_server();
  bool is_usable(const ExportInfo& info) const;
  int patience_ms() const;

  const std::shared_ptr<const Library> library_;
  const ClientOptions options_;
  const ExportInfo info_;
  EventFd wake_;

  std::mutex mutex_;
  std::vector<std::shared_ptr<Command>> incoming_;  // guarded by mutex_
  bool over_ = false;                               // guarded by mutex_

  // The client's thread's alone.
  std::unique_ptr<Connection> connection_;  // null: lost
  std::list<std::shared_ptr<Command>> waiting_;
  std::list<std::shared_ptr<Command>> issued_;
  std::vector<Command*> completed_;
  std::unique_ptr<Reconnect> reconnect_;         // under way
  std::optional<Clock::time_point> hope_until_;  // after that, commands fail at once
  Clock::time_point next_attempt_{};
  std::chrono::milliseconds pause_{0};
  uint64_t changes_ = 0;          // acknowledged
  uint64_t changes_flushed_ = 0;  // on stable storage
  bool changes_lost_ = false;
  bool shutting_down_ = false;  // the server said so

  std::thread thread_;
};

}  // namespace minivmm::nbd
