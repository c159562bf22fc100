"""The words of the built-in calibration set: plain prose, dialogue, code and notes, written for quantcliff.

They show a model the kinds of text it meets (registers, subjects, scripts, layouts) and share no passage with any task.
Only text lives here; `harness.models.calibration` puts it together. Changing a word makes another set: give it another name.
"""

from __future__ import annotations

__all__ = ["CODE", "ENGLISH", "LANGUAGES", "NOTES"]

ENGLISH = (
    "The ferry left a quarter of an hour late, and nobody on the upper deck seemed to mind. A man in a yellow coat was"
    " explaining to his granddaughter why gulls follow boats, and she kept interrupting him with better reasons. Behind"
    " the harbour wall the water changed from green to grey. Someone had left a newspaper on the bench, open at the"
    " crossword, with all the short words filled in and all the long ones left for a cleverer passenger.",
    "Sourdough is mostly patience. The starter, a spoonful of flour and water that has learned to rise on its own, wants"
    " feeding at the same hour each day and sulks in a cold kitchen. On baking days I mix the dough before breakfast,"
    " fold it every half hour until it stops tearing, and let it rest under a damp cloth while I do something else. The"
    " loaf that comes out is never quite the one I planned, which may be why I keep making it.",
    "A bridge is a negotiation between weight and distance. The engineer decides which parts will be pushed together and"
    " which pulled apart, and then chooses a material that does not object. Stone endures pressure for centuries but"
    " cracks when stretched; steel cable is the opposite. Long spans hang, short ones lean. What looks like ornament on"
    " an old viaduct is often a confession: here the builder was not sure, and added a little more.",
    "When the clinic moved its records from paper to a database, the first surprise was how often patients shared a name"
    " and a birthday. The second was how much had been written in the margins. A nurse who retired that spring spent her"
    " last month reading old folders aloud to a student, who typed the remarks into a field that had to be invented for"
    " them. It is now the field that doctors read first.",
    "The violin maker taps each plate and listens. Too bright, and she takes another shaving from beneath the bridge;"
    " too dull, and the plate goes back on the shelf to dry another winter. Machines can measure the frequencies to a"
    " tenth of a hertz, and she owns such a machine. She uses it to settle arguments with her brother, who sells pianos.",
    "In most towns the night bus is the only place where a surgeon, a baker, two students and a security guard sit within"
    " arm's reach. Nobody talks. The driver knows who gets off where and slows down before the bell rings. Around four"
    " in the morning the windows fog from the inside, and the town outside turns into a row of soft lights that could be"
    " any town at all.",
    "Soil looks idle and is not. A handful from under an oak holds more living things than there are people in the"
    " county, most of them without a name. Threads of fungus trade minerals for sugar with the roots; mites shred the"
    " fallen leaves; worms drag the shreds down and leave tunnels for the rain. Turn it over too often and the whole"
    " arrangement has to be built again from the beginning.",
    "The committee met for the third time about the colour of the railings. Green had been proposed because the park is"
    " green, and rejected for the same reason. A retired chemist brought samples of rust at various ages and argued that"
    " the railings would settle the question by themselves. In the end the treasurer pointed out that there was black"
    " paint in the shed, already paid for, and the meeting moved on to the swans.",
    "Reading a tide table is simple once you accept that it describes the moon. Two high waters and two low ones share"
    " each lunar day, which is longer than ours by about fifty minutes, so every entry slides later than the one above"
    " it. Twice a month sun and moon pull in line and the range grows; in between they quarrel and it shrinks. Wind and"
    " air pressure then add their own opinion, which no table prints.",
    "My aunt kept the accounts of three shops in her head until she was eighty. Asked how, she said that numbers have"
    " faces. Seven was a man with an umbrella; forty was a widow who owed money to twelve. When a sum was wrong, somebody"
    " at the table looked uncomfortable. She distrusted calculators because they gave every answer with the same"
    " expression.",
    "To repair a bicycle wheel you need a spoke key, a quiet room and the willingness to go too far and come back. Spin"
    " it and watch the gap beside the brake. Where the rim wanders to the left, tighten a spoke on the right by a quarter"
    " of a turn and loosen its neighbour by as much. The wheel answers slowly. After twenty small corrections it runs"
    " true, and you will not remember which of them mattered.",
    "The lighthouse was automated in the year of the great storms. Its last keeper came back each autumn to oil the door,"
    " though nobody had asked him to, and to write a line in the visitors' book about the weather. After his death the"
    " book was found to agree with the official record on all but nine days, and on those nine the official instrument"
    " had been out of order.",
    "Good instructions assume an intelligent reader who has never done this before. They name the thing before they use"
    " it, give one action to a sentence, and say what should be seen when the action worked. They do not apologise. A"
    " warning stands before the step that it concerns, never after. If a step can be skipped, the text says when; if it"
    " cannot, the text says why, because a reader who knows why will not skip it.",
    "The orchestra tuned, the lights sank, and in the second row a telephone began to sing. Its owner searched one pocket"
    " after another with growing despair while the conductor waited, baton raised, with the face of a man counting. When"
    " it stopped he turned to the players and gave them the first bar of the telephone's melody, which they played,"
    " softly, in four parts. The applause lasted longer than the overture.",
    "Glass is not a slow liquid, whatever the guide in the cathedral says. Old panes are thicker at one edge because they"
    " were spun into discs and cut, and a sensible glazier set the heavy edge at the bottom. Measured over any human"
    " time, the panes have not moved at all. What has changed is their colour: a trace of manganese, once added to make"
    " them clear, turns violet after a century of sun.",
    "Every spring the river rearranges the lower meadow. Last year's path ends now in a pool with frogs, and the gate"
    " that used to keep sheep in keeps nothing from nothing. My neighbour draws the new line on the same old map in a"
    " different colour. There are eleven colours by this time, and from a distance the map looks like a piece of weaving"
    " by somebody who could not decide where to stop.",
    "A translator of poems chooses what to lose. Keep the rhyme and the sense slides; keep the sense and the music stops;"
    " keep the order of the images and the grammar limps. The honest ones say in a note what they gave up. The best of"
    " them lose something different in every line, so that the reader, adding it all together, believes that nothing is"
    " missing.",
    "Before containers, unloading a ship took a week and a hundred men who knew how to stack coffee against machine parts."
    " Afterwards it took a day and a crane. The box itself is dull: corrugated steel, two doors, eight corners with a"
    " hole in each. The holes are the invention. Whatever can be grabbed by those eight corners can go by rail, by road"
    " or by sea without anyone asking what is inside.",
)

NOTES = (
    "Minutes, Tuesday\n\n- Present: Ines, Viktor, Amal (by phone)\n- Heating: quote received, two more wanted\n"
    "- Door code changes on the first of the month; Viktor tells the cleaners\n- Open: who waters the plants in August?\n\n"
    "Next meeting in a fortnight, same room.",
    "# Release notes\n\n## Added\n* Export to plain text, with a choice of line endings.\n* A setting for the first day of"
    " the week.\n\n## Fixed\n* The window no longer forgets its size when a second screen is unplugged.\n* Sorting by date"
    " treats missing dates as oldest, not as today.\n",
    "Subject: Key for the side entrance\n\nDear Mr Okafor,\n\nthe locksmith can come on Thursday between nine and eleven."
    " Please let me know whether somebody will be there to open the gate. If not, I can leave the spare key with the"
    " bakery on the corner.\n\nKind regards,\nM. Lindqvist",
    "| item        | quantity | unit price | total  |\n|-------------|----------|------------|--------|\n| hinges      | 12"
    "       | 3.40       | 40.80  |\n| screws, box | 4        | 6.25       | 25.00  |\n| oak board   | 3        | 48.90      |"
    " 146.70 |\n",
    '{"station": "north pier", "readings": [{"t": "06:00", "wind": 7.2, "gust": 11.0}, {"t": "07:00", "wind": 6.8, "gust":'
    ' null}], "calibrated": true, "note": "sensor cleaned"}',
    "A: Is the museum open on Mondays?\nB: No, but the garden is, and the garden is the better half.\nA: Do I need a"
    " ticket for it?\nB: Only if you want the map. Most people get lost on purpose.\nA: Then two maps, please.\n",
    "Preheat the oven to 190 degrees. Rub 80 g of butter into 200 g of flour until it looks like sand, add a pinch of salt"
    " and three spoons of cold water, and press the dough into a tin. Bake it blind for 15 minutes. Fill it with six"
    " sliced plums, scatter sugar on top, and bake for another 30.",
    "Q: Why does the kettle sing before it boils?\nA: Small bubbles of steam form at the hot bottom, rise into cooler water"
    " and collapse. Each collapse is a click, and thousands of clicks are a hiss. When all the water is hot the bubbles"
    " survive to the surface, and the sound drops to a rumble.\n",
)

CODE = (
    "def moving_average(values, width):\n    total = sum(values[:width])\n    yield total / width\n"
    "    for old, new in zip(values, values[width:]):\n        total += new - old\n        yield total / width\n",
    "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n"
    "        self._items.append(item)\n\n    def pop(self):\n        if not self._items:\n"
    '            raise IndexError("pop from an empty stack")\n        return self._items.pop()\n',
    "SELECT c.name, COUNT(o.id) AS orders, ROUND(AVG(o.total), 2) AS mean_total\nFROM customers AS c\n"
    "LEFT JOIN orders AS o ON o.customer_id = c.id AND o.placed_at >= DATE '2024-01-01'\nGROUP BY c.name\n"
    "HAVING COUNT(o.id) > 2\nORDER BY mean_total DESC;\n",
    "function debounce(action, delay) {\n  let timer = null;\n  return (...args) => {\n    clearTimeout(timer);\n"
    "    timer = setTimeout(() => action(...args), delay);\n  };\n}\n",
    "#include <stdio.h>\n\nint main(void) {\n    unsigned long a = 0, b = 1;\n    for (int i = 0; i < 20; ++i) {\n"
    '        printf("%lu\\n", a);\n        unsigned long next = a + b;\n        a = b;\n        b = next;\n    }\n'
    "    return 0;\n}\n",
    '#!/bin/sh\nset -eu\nfor log in /var/log/app/*.log; do\n    [ -s "$log" ] || continue\n'
    '    gzip -c "$log" > "archive/$(basename "$log").gz" && : > "$log"\ndone\n',
    "fn histogram(words: &[&str]) -> BTreeMap<String, usize> {\n    let mut counts = BTreeMap::new();\n"
    "    for word in words {\n        *counts.entry(word.to_lowercase()).or_insert(0) += 1;\n    }\n    counts\n}\n",
    '<form method="post" action="/subscribe">\n  <label for="mail">E-mail</label>\n'
    '  <input id="mail" name="mail" type="email" required>\n  <button>Subscribe</button>\n</form>\n',
)

LANGUAGES = (
    "Le marché ouvre à six heures, quand les lampadaires brûlent encore. La marchande de fromages range ses meules par"
    " âge et par humeur ; elle prétend que le bleu porte malheur aux chèvres. Un chien dort sous l'étal du poissonnier et"
    " ne se réveille que pour les clients qui marchandent.",
    "Der Zug hielt auf freier Strecke, und zum ersten Mal an diesem Tag war es still. Draußen stand ein Reiher im Graben"
    " und rührte sich nicht. Ein Schaffner ging durch den Wagen und sagte, es könne dauern, worauf alle ihre Brote"
    " auspackten, als hätten sie nur auf diesen Satz gewartet.",
    "El taller de mi abuelo olía a barniz y a café. De las paredes colgaban relojes que nadie había venido a recoger, cada"
    " uno con su hora. Él decía que un reloj parado es más honrado que uno que atrasa, porque al menos no disimula.",
    "A chuva chegou antes do circo e ficou mais tempo. Durante três dias a lona serviu de telhado aos pardais, e o"
    " trapezista ensinou as crianças da rua a fazer nós. Quando o sol voltou, ninguém quis sentar-se na primeira fila.",
    "In cima alla collina c'è una panchina da cui si vedono due mari. I vecchi del paese ci salgono a turno, la domenica,"
    " e discutono su quale dei due sia più blu. Finora nessuno ha cambiato idea.",
    "На чердаке стоял сундук с письмами без конвертов. Почерк был один и тот же, а имена в конце разные. Бабушка смеялась"
    " и говорила, что дед учился подписываться, пока не нашёл имя, которое ей понравилось.",
    "Na rynku stoi fontanna, która działa tylko w czwartki. Turyści przychodzą w inne dni i fotografują suchy kamień."
    " Mieszkańcy uważają, że to dobrze: kto chce zobaczyć wodę, musi zostać trochę dłużej.",
    "Uçurtmanın ipi koptuğunda çocuk ağlamadı. Kâğıdın damların üzerinden denize doğru gidişini izledi, sonra eve dönüp"
    " daha uzun bir ip istedi. Babası, ipin değil rüzgârın uzun olduğunu söyledi.",
    "Cây cầu gỗ bắc qua con suối chỉ vừa cho một người. Khi hai người gặp nhau ở giữa, ai trẻ hơn thì lùi lại. Ông tôi nói"
    " rằng nhờ vậy mà ở làng này ai cũng biết tuổi của nhau.",
    "Kapal kecil itu mengangkut pisang pada pagi hari dan murid sekolah pada siang hari. Nakhodanya mengenal semua ombak"
    " di selat, katanya, kecuali yang datang dari samping tanpa memberi salam.",
    "Fundi wa saa alikuwa na duka dogo karibu na kituo cha mabasi. Kila asubuhi alifungua mlango, akapanga saa zake mezani,"
    " kisha akasikiliza. Alisema saa nzuri haisikiki peke yake, bali husikika pamoja na nyingine.",
    "老街的尽头有一家修伞的铺子。下雨的时候生意最少，因为伞都在路上；等天晴了，人们才想起昨天漏水的地方。师傅不着急，"
    "他说雨总会再来，伞也总会再坏。",
    "祖母の庭には名札のない木が一本ある。誰が植えたのかも、何の実がなるのかも分からない。毎年春になると家族で賭けをする"
    "が、花が咲いたことは一度もない。それでも誰も切ろうとは言わない。",
    "골목 끝 책방은 저녁에만 문을 연다. 주인은 낮에는 배를 타고, 밤에는 소설을 판다. 손님이 어떤 책이 좋으냐고 물으면 그는"
    " 바다가 조용했는지 먼저 묻는다.",
    "في آخر السوق دكان يبيع المفاتيح القديمة. لا أحد يعرف أبوابها، لكن الناس يشترونها هدايا. يقول البائع إن المفتاح الذي ضاع"
    " بابه أخف من غيره، لأنه لا يحمل سوى نفسه.",
    "גשר הרכבת הישן הפך לטיילת, אבל השעון בתחנה עדיין מראה את שעת הרכבת האחרונה. הילדים בטוחים שהוא מקולקל, והזקנים"
    " אומרים שהוא פשוט נאמן.",
    "पहाड़ी के मोड़ पर चाय की एक दुकान है जहाँ बसें बिना वजह रुकती हैं। दुकानदार हर यात्री से एक ही सवाल पूछता है: ऊपर जा रहे हो या"
    " लौट रहे हो? जवाब के हिसाब से वह चीनी कम या ज़्यादा डालता है।",
    "নদীর ধারে একটা পুরোনো নৌকা উল্টো করে রাখা। বর্ষায় তার নিচে ছাগল আশ্রয় নেয়, শীতে ছেলেরা। মাঝি বলে, নৌকাটা এখনো কাজ করছে,"
    " শুধু জল বদলে গেছে।",
    "ஊரின் நடுவில் ஒரு பெரிய ஆலமரம் நிற்கிறது. அதன் நிழலில் காலையில் பள்ளி நடக்கும், மாலையில் சந்தை கூடும். மரம் யாருக்கும் கட்டணம்"
    " கேட்பதில்லை.",
    "ร้านตัดผมของลุงมีเก้าอี้ตัวเดียวและกระจกสองบาน ลูกค้าที่รอจะได้ฟังข่าวของทั้งตำบล ลุงบอกว่าค่าตัดผมถูก เพราะเรื่องเล่าเป็นของแถม",
    "Στο νησί υπάρχει ένας φούρνος που ανάβει μόνο με ξύλα ελιάς. Ο φούρναρης ξυπνά πριν από τους ψαράδες και κοιμάται μετά"
    " από αυτούς, και λέει πως έτσι δεν χάνει καμία είδηση.",
    "Старий млин давно не меле, але колесо крутиться далі, бо річка про це не знає. Навесні діти пускають крізь нього"
    " паперові кораблики й рахують, скільки випливе з другого боку.",
)
