// The verbs of the command line: one file each. Adding one is a function here and its call in main.cpp.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace minivmm {

// Set by the verb that was parsed; run after parsing; returns the exit status.
using Action = std::function<int()>;

void add_run(CLI::App& app, Action& action);  // also what happens without a verb
void add_doctor(CLI::App& app, Action& action);
void add_disk(CLI::App& app, Action& action);

}  // namespace minivmm
