"""A judge that runs elsewhere: `RemoteJudge` has the `judge` of `llasa.judge.Judge`, and asks a service.

`wire` says what goes over the line, `replicas` which service is asked, `errand` how an answer is got in time,
`client` joins them. The service is `llasa serve --judge`.
"""

from llasa.remote_judge.client import KEY_VARIABLE as KEY_VARIABLE
from llasa.remote_judge.client import RemoteBlock as RemoteBlock
from llasa.remote_judge.client import RemoteJudge as RemoteJudge
from llasa.remote_judge.client import build_remote as build_remote
