# KUMIKO_PRECOMPILE_HEADERS: the standard headers that most files include are compiled once per target, for a quicker first build
# (scripts/demo). Not for the builds of the tests: there a file must include what it uses, and ccache keeps its objects. Kernels
# are compiled for several instruction sets, and include little.
set(standard_headers <algorithm> <atomic> <chrono> <cmath> <condition_variable> <cstdint> <cstdio> <cstring> <deque> <filesystem>
    <fstream> <functional> <map> <memory> <mutex> <optional> <span> <stdexcept> <string> <string_view> <thread> <utility> <vector>)
foreach(target kumiko_scheduler kumiko)
  target_precompile_headers(${target} PRIVATE ${standard_headers})
endforeach()
if(TARGET inference)
  target_precompile_headers(inference PRIVATE ${standard_headers})
  target_precompile_headers(inference_server REUSE_FROM inference)
endif()
